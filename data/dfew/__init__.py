"""DFEW: 11,697 film clips, seven expressions, five folds, ten annotators' votes a clip."""
