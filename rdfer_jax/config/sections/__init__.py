"""All settings of a run: defaults, meanings, units, and allowed values."""
