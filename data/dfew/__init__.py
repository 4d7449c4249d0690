"""DFEW: 11,697 film clips, seven expressions, five folds, ten annotators per clip."""
