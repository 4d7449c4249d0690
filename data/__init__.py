"""TFDS builders of the data sets, stored as ArrayRecord. Independent of the model code."""
