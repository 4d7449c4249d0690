"""What pretraining gains: pairs of cells on the same clips, the pretraining before a cell, the table."""

import dataclasses
import json

import pytest
from etils import epath

from benchmarks import harness
from experiments import cell, grid, pretraining
from rdfer_jax.training import pretrain

SMALL = pretraining.SIZES["small"]


def specs(tmp_path, seeds=(0, 1)):
    cells = pretraining.cells(SMALL, 0.1, "difference", seeds)
    overrides = grid.base(epath.Path(tmp_path), pretraining._TRAINING | {"build": {}})
    return [grid._spec(one, epath.Path(tmp_path), pretraining.CONFIG, overrides) for one in cells]


def test_both_trainings_read_the_labeled_clips_and_the_pretraining_all_of_them(tmp_path):
    found = specs(tmp_path)
    assert [one["name"] for one in found] == [
        "random_weights-s0", "pretrained-s0", "random_weights-s1", "pretrained-s1",
    ]  # fmt: skip
    for base, pretrained in zip(found[::2], found[1::2], strict=True):
        assert base["settings"] == pretrained["settings"] and "pretraining" not in base
        labeled = harness.load(base["config"], base["settings"])
        before = harness.load(*(pretrained["pretraining"][k] for k in ("config", "settings")))
        builds = [dict(config.build) for config in (labeled, before)]
        assert [build.pop("num_train") for build in builds] == [400, 4000]
        assert [build.pop("num_test") for build in builds] == [2000, 1]
        assert builds[0] == builds[1] and builds[0]["flip_rate"] == 0
        assert labeled.data.variant != before.data.variant and labeled.seed == before.seed
        assert labeled.model.trunk == before.model.trunk == "videovit_narrow"
        assert labeled.loss.method == "cross_entropy" and before.pretrain.target == "difference"
        assert before.train.duration == "40 epochs" and labeled.train.duration == "60 epochs"
        steps = {key: getattr(labeled.clips, key) for key in ("frames", "kind")}
        assert steps == {key: getattr(before.clips, key) for key in steps}
    seeds = [harness.load(one["config"], one["settings"]).build["seed"] for one in found]
    assert seeds == [900, 900, 901, 901]


def test_a_cell_pretrains_first_and_starts_from_the_weights(tmp_path, monkeypatch):
    spec = specs(tmp_path)[1]
    spec["settings"]["compile_cache"] = ""
    (tmp_path / "cell.json").write_text(json.dumps(spec))
    calls = []

    class Trainer:
        def train(self, config, folder):
            calls.append((config, folder))
            return {"results": {"war": 0.5}, "evidence": {}}

    monkeypatch.setattr(pretrain, "pretrain", lambda *given: calls.append(given))
    folder = epath.Path(tmp_path)
    cell.run_cell(folder, Trainer())
    first, second = calls
    before = spec["pretraining"]
    assert first == (harness.load(before["config"], before["settings"]), folder / "pretraining")
    config = harness.load(spec["config"], spec["settings"])
    weights = str(folder / "pretraining" / "encoder.safetensors")
    assert second == (dataclasses.replace(config, init_from=weights), folder)
    assert "init_from" not in json.loads((tmp_path / "result.json").read_text())["settings"]


def test_the_table_shows_the_paired_gain():
    wars = [(0.50, 0.54), (0.60, 0.66)]
    results = [
        {"seed": seed, "results": dict.fromkeys(pretraining.COLUMNS, war)}
        for seed, pair in enumerate(wars)
        for war in pair
    ]
    rows = pretraining.summary(results)
    assert [row["weights"] for row in rows] == ["random weights", "pretrained"]
    assert rows[1]["war_difference"]["mean"] == pytest.approx(0.05)
    text = pretraining.table(rows)
    assert (
        text.startswith("2 seeds\n")
        and "| pretrained | 60.0 ± 76.2; +5.0 (-7.7 to +17.7) |" in text
    )
    pretraining.picture(results)
