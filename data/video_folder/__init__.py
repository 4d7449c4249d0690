"""The user's own videos: a folder for each class, or a list of paths and labels."""
