"""Measurements, run by hand: each prints one table and writes JSON on request."""
