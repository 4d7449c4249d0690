"""Predictions for a user's own videos."""
