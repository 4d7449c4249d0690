"""Results of cells that did not train."""

import numpy as np

from experiments import choose, evidence, grid


def cell_result(cell, output, config, overrides, war=None, label_seed=None):
    """A result of a cell that did not train; its accuracy depends on its name alone."""
    settings = grid.settings_of(cell, output, config, overrides)
    rng = np.random.default_rng(sum(map(ord, cell.name)))
    label = np.random.default_rng(cell.build.get("seed", 0)).integers(7, size=50)
    war = rng.uniform(0.5, 0.9) if war is None else war
    predicted = np.where(rng.random(50) < war, label, (label + 1) % 7)
    return {
        "name": cell.name, "seed": cell.seed, "noise": {}, "settings": settings, "commit": "c",
        "hardware": "h", "seconds": 1.0, "results": {"war": float(war)},
        "evidence": {
            "test": {"label": evidence.digits(label), "prediction": evidence.digits(predicted),
                     "hard": evidence.digits(label > 3)},
            "calls": rng.integers(1, 30, size=(3, 3)).tolist(),
            "agreement": {"clips": rng.integers(9, size=(3, evidence.BINS)).tolist()},
            "detection": {
                choose.TASK: {
                    "scores": ["odds, K clips", "odds, one clip", "loss, one clip", "loss, video"],
                    "auroc": [0.9, 0.8, 0.85, 0.7], "covariance": (1e-4 * np.eye(4)).tolist(),
                }
            },
        },
    }  # fmt: skip
