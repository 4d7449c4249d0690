"""Faces in a video: detection, tracking, cropping; the same for building and predicting."""
