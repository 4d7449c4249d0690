"""Experiments on the method: run by hand, each prints one table."""
