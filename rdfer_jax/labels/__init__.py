"""Wrong labels: inject them, find them, review them."""
