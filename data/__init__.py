"""The data sets, packaged for TFDS as ArrayRecord. Nothing here imports model code."""
