"""Robust dynamic facial expression recognition in JAX and Flax.

`Predictor` reads videos with a trained network; `find_label_issues` finds wrong labels from predictions.
Both are imported on first use, so that `import rdfer_jax` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdfer_jax.labels.issues import find_label_issues
    from rdfer_jax.predict.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "find_label_issues"]

#: Public name -> where it is defined.
_LAZY = {
    "Predictor": ("rdfer_jax.predict.predictor", "Predictor"),
    "find_label_issues": ("rdfer_jax.labels.issues", "find_label_issues"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
