"""Training, evaluation and everything a run writes to its folder."""
