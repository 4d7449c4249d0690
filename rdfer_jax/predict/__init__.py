"""Predictions for a user's own videos."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Imports Predictor when it is asked for: it needs JAX, which the other modules here do not."""
    if name == "Predictor":
        from rdfer_jax.predict.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
