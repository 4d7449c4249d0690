"""A cell of a grid: the same results as `rdfer train`, for less; its files, and continuing it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny
from etils import epath

from benchmarks import harness
from experiments import cell
from rdfer_jax.pipeline import label_files
from rdfer_jax.training import train
from rdfer_jax.training.loop import NonFiniteLossError
from rdfer_jax.training.predictions import read_predictions


def settings(tmp_path, **changes):
    config = tiny.config(
        data={"dir": str(tmp_path / "tfds"), "frame_cache": str(tmp_path / "frames")},
        train={
            "duration": "6 steps",
            "eval_every": "6 steps",
            "save_every": "6 steps",
            "tensorboard": False,
        },
        loss={"robust_from": "2 steps"},
    )
    return dataclasses.replace(config, **changes)


def test_what_is_not_in_the_program_is_not_in_its_key(tmp_path):
    config = settings(tmp_path)
    key = cell.program(config)
    data = dataclasses.replace(config.data, dir="there", labels="b.csv", variant="c")
    assert cell.program(dataclasses.replace(config, seed=5, data=data, compile_cache="d")) == key
    loss = dataclasses.replace(config.loss, hard=0.25)
    longer = dataclasses.replace(config.train, duration="7 steps")
    batch = dataclasses.replace(config.data, batch_size=4)
    for change in ({"loss": loss}, {"train": longer}, {"data": batch}):
        assert cell.program(dataclasses.replace(config, **change)) != key


@pytest.mark.slow
def test_a_cell_has_the_results_of_rdfer_train(tmp_path):
    tiny.build(tmp_path / "tfds")
    config, folder = settings(tmp_path), epath.Path(tmp_path) / "cell"
    folder.mkdir()
    expected = train.train(config, tmp_path / "run")
    trainer = cell.Trainer()
    both = trainer.train(config, folder)
    found = both["results"]
    assert len(both["evidence"]["test"]["prediction"]) == len(tiny.SPLITS["test"])
    assert set(both["evidence"]) == {"test", "calls", "agreement", "detection"}
    assert {k: v for k, v in found.items() if isinstance(v, float)} == pytest.approx(
        {k: v for k, v in expected.items() if isinstance(v, float)}, abs=1e-6
    )
    for name in ("predictions.npz", "predictions_train.npz"):
        ours, theirs = (
            read_predictions(epath.Path(path) / name, ("logits", "clip_logits"))
            for path in (folder / "run", tmp_path / "run")
        )
        assert (ours["clip_id"] == theirs["clip_id"]).all()
        for array in ("logits", "clip_logits", "agreement"):
            assert ours[array].dtype == np.float16
            np.testing.assert_allclose(ours[array], theirs[array], rtol=2e-3, atol=2e-3)
        assert (ours["label"] == theirs["label"]).all()
    assert ours["memory_probs"].shape == (11, 3)
    # Other seeds and labels use the same program.
    programs = dict(trainer._programs)
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,label\n" + "".join(f"train-{i},sad\n" for i in range(11)))
    data = dataclasses.replace(config.data, labels=str(labels))
    found = trainer.train(dataclasses.replace(config, seed=1, data=data), folder)
    assert trainer._programs == programs
    assert found["results"]["noise_share"] > 0.3

    # The first of two trainings writes labels for the second one; nothing is relabeled above odds of 1.
    trainer.relabel(config, folder, score="odds", threshold=1.0)
    given = {clip["clip_id"]: tiny.CLASSES[clip["label"]] for clip in tiny.records()["train"]}
    read = {
        name: label for name, (label, _) in label_files.read_names(folder / cell.LABELS, "").items()
    }
    assert read == given and not (folder / cell.STATE).exists()

    # A cell that was interrupted continues and ends where the other one did.
    class StopError(Exception):
        pass

    (compiled,) = programs.values()
    setup = cell.open_data(config)
    steps = iter(range(4))

    def step(state, batch):
        if next(steps, None) is None:
            raise StopError
        return compiled.step(state, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopError):
        patch.setattr(cell, "SAVE_SECONDS", 0.0)
        cell.run(setup, dataclasses.replace(compiled, step=step), folder)
    again = cell.run(setup, compiled, folder)
    (folder / "state.npz").unlink()
    whole = cell.run(setup, compiled, folder)
    assert int(again.step) == 6
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    def diverge(state, batch):
        state, metrics = compiled.step(state, batch)
        return state, dataclasses.replace(
            metrics, loss=dataclasses.replace(metrics.loss, total=metrics.loss.total * np.nan)
        )

    with pytest.raises(NonFiniteLossError, match="step 6 is nan"):
        cell.run(setup, dataclasses.replace(compiled, step=diverge), folder)


def test_a_cell_has_no_validation_part(tmp_path):
    config = settings(tmp_path)
    data = dataclasses.replace(config.data, validation_percent=10.0)
    with pytest.raises(ValueError, match="validation_percent: expected 0"):
        cell.open_data(dataclasses.replace(config, data=data))


def test_the_result_of_a_cell_says_how_it_came_about(tmp_path, monkeypatch):
    config = tmp_path / "config.py"
    config.write_text(
        "from rdfer_jax.config import default\n\n\ndef get_config():\n    return default()\n"
    )
    spec = {
        "name": "gce-0", "config": str(config), "noise": {"kind": "confusion", "rate": 0.3, "seed": 3},
        "settings": {"loss.method": "gce", "seed": 3, "compile_cache": "programs"},
    }  # fmt: skip
    (tmp_path / "cell.json").write_text(json.dumps(spec))
    updates, asked = [], []
    monkeypatch.setattr(jax.config, "update", lambda *change: updates.append(change))

    class Trainer:
        def train(self, config, folder):
            asked.append(config)
            return {"results": {"war": 0.5}, "evidence": {}}

    cell.run_cell(epath.Path(tmp_path), Trainer())
    assert asked == [harness.load(str(config), spec["settings"])]
    assert updates == [("jax_compilation_cache_dir", "programs")]
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["results"] == {"war": 0.5} and found["seed"] == 3 and found["commit"]
    assert {name: found[name] for name in ("name", "noise", "settings")} == {
        name: spec[name] for name in ("name", "noise", "settings")
    }
    assert found["seconds"] >= 0 and found["cpu_seconds"] >= 0 and "cpu" in found["hardware"]


def test_a_cell_that_fails_has_no_result(tmp_path, monkeypatch):
    config = tmp_path / "config.py"
    config.write_text(
        "from rdfer_jax.config import default\n\n\ndef get_config():\n    return default()\n"
    )
    (tmp_path / "cell.json").write_text(
        json.dumps({"name": "a", "config": str(config), "settings": {}, "noise": {}})
    )

    class Trainer:
        def train(self, config, folder):
            raise NonFiniteLossError("nan")

    with pytest.raises(NonFiniteLossError):
        cell.run_cell(epath.Path(tmp_path), Trainer())
    assert not (tmp_path / "result.json").exists()
