"""What another rule would call clean, hard and noisy, against a loop over the videos of finished cells."""

import json

import numpy as np
import pytest

from experiments import calls
from rdfer_jax.training.predictions import TRAIN_FILE, Predictions

B, K, N = 120, 3, 7
SETTINGS = {"agreement.threshold": 0.3, "agreement.remember": 0.5, "loss.max_contradicted": 1.0}


def save(folder, seed):
    """Writes a cell; returns (kind, label, remembered distribution and agreement) of each video."""
    rng = np.random.default_rng(seed)
    label, flipped, hard = rng.integers(N, size=B), rng.random(B) < 0.3, rng.random(B) < 0.4
    probs = rng.dirichlet(np.where(np.arange(N) == 0, 3, 1), B)
    probs = (
        0.6 * probs + 0.4 * np.eye(N)[np.where(rng.random(B) < 0.7, label, rng.integers(N, size=B))]
    )
    value = rng.permutation(np.linspace(0.5, 1, B))
    arrays = {
        "clip_id": np.arange(B).astype(str), "label": label, "is_flipped": flipped, "is_hard": hard,
        "logits": rng.normal(size=(B, N)), "clip_logits": rng.normal(size=(B, K, N)),
        "memory_probs": np.float32(0.5 * probs), "memory_label": label,
        "memory_agreement": np.float32(0.5 * value), "memory_threshold": np.full(B, 0.2, np.float32),
        "memory_visits": np.ones(B, np.int32),
    }  # fmt: skip
    (folder / "run").mkdir(parents=True)
    Predictions("train", tuple("abcdefg"), arrays).save(folder / "run" / TRAIN_FILE)
    cell = {"config": "configs/synthetic.py", "settings": SETTINGS}
    (folder / "cell.json").write_text(json.dumps(cell))
    return zip(np.where(flipped, 2, hard), label, probs, value, strict=True)


@pytest.mark.parametrize("noisy_agrees", [True, False])
def test_the_calls_are_those_of_the_rule(tmp_path, monkeypatch, capsys, noisy_agrees):
    held = []
    for seed in (1, 2):
        held.append({"clean": [], "hard": [], "noisy": []})
        videos = list(save(tmp_path / f"cells/a-s{seed}", seed))
        tau = np.quantile([v[3] for v in videos], 0.4)
        for kind, label, probs, value in videos:
            other = np.delete(probs, label).max()
            odds = other / (other + probs[label])
            call = "hard"
            if value >= tau and probs.argmax() == label:
                call = "clean"
            elif odds > 0.6 and (value >= tau or not noisy_agrees):
                call = "noisy"
            held[-1][call].append(kind)
    options = type("O", (), {
        "cells": str(tmp_path / "cells/*"), "output": str(tmp_path / "out"),
        "set": [
            "agreement.threshold=0.4", "agreement.noise_threshold=0.6",
            f"agreement.noisy_agrees={noisy_agrees}",
        ],
    })  # fmt: skip
    monkeypatch.setattr(calls, "flags", type("F", (), {"FLAGS": options}))
    calls.main(())
    trained, changed = json.loads((tmp_path / "out/calls.json").read_text())["rows"]
    assert trained["rule"] == "as trained" and changed["cells"] == 2 and trained != changed
    for call, right in (("clean", 2), ("hard", 1), ("noisy", 2)):
        name = next(n for n in changed if n.startswith(f"called {call},"))
        expected = np.mean([np.mean(np.array(cell[call]) == right) for cell in held])
        assert changed[name]["mean"] == pytest.approx(expected, abs=1e-9)
        change = changed[name]["mean"] - trained[name]["mean"]
        assert changed[f"minus as trained: {name}"]["mean"] == pytest.approx(change)
        share = sum(len(cell[call]) for cell in held) / (2 * B)
        assert changed[f"share called {call}"] == pytest.approx(share) and share > 0.1
    assert "changed" in capsys.readouterr().out
