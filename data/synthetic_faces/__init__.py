"""Rendered faces with facial expressions and known truth for every clip; see README.md."""
