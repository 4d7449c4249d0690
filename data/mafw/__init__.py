"""MAFW: 10,045 clips from many countries, eleven expressions and their compounds, five folds."""
