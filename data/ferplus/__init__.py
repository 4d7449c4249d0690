"""FER2013 with the votes of FER+: 35,887 photographs of faces, original labels and ten votes each."""
