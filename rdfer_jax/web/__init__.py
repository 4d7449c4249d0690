"""A page that runs a network in the browser: its files, and a server for them."""
