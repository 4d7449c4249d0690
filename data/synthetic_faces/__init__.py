"""Drawn faces with facial expressions, whose truth is known for every clip; see README.md."""
