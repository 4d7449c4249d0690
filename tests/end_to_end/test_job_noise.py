"""The noise benchmark on a data set whose own labels count as true, at the smallest sizes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import raw_trees

pytestmark = pytest.mark.e2e


def noise(output: Path, settings: dict, **flags: object) -> str:
    """Runs the benchmark and returns what it printed."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    words += [f"--set={name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.noise", f"--output={output}", *words],
        cwd=jobs.ROOT,
        env=jobs.environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    logs = "".join(path.read_text() for path in output.glob("cells/*/log.txt"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return done.stdout


@pytest.mark.parametrize(
    ("config", "make_tree"),
    [
        ("configs/dfew.py:1", raw_trees.make_dfew),
        ("configs/video_folder.py", raw_trees.make_video_folder),
    ],
)
def test_flips_are_injected_into_real_layouts_and_found_in_the_results(tmp_path, config, make_tree):
    make_tree(tmp_path / "raw")
    settings = jobs.SMALL | {"data.dir": tmp_path / "tfds", "data.validation_percent": 0}
    built = settings | {"build.source_dir": tmp_path / "raw"}
    jobs.run(config, built, mode="build")
    output, settings = tmp_path / "noise", settings | {"train.duration": "2 steps"}
    asked = {
        "size": "config", "config": config, "methods": "label_smoothing,agreement",
        "rates": 0.5, "seeds": 0, "kinds": "symmetric", "jobs": 2,
    }  # fmt: skip
    printed = noise(output, settings, **asked)
    assert "50% wrong labels, symmetric; 1 seeds" in printed
    assert "| label_smoothing |" in printed and "| agreement |" in printed

    rows = list(csv.DictReader((output / "labels" / "symmetric-0.5-s0.csv").open()))
    flipped = sum(int(row["is_flipped"]) for row in rows)
    assert flipped == sum(row["label"] != row["true_label"] for row in rows) > 0
    paths = sorted(output.glob("cells/*/result.json"))
    assert len(paths) == 2
    for path in paths:
        found = json.loads(path.read_text())["results"]
        assert found["step"] == 2 and found["noise_share"] == flipped / len(rows)
        assert 0 <= found["noise_auroc_loss"] <= 1
        assert "noise_auroc_loss_among_hard" not in found  # nobody knows which clips are hard

    before = [path.stat().st_mtime_ns for path in paths]
    assert noise(output, settings, **asked) == printed
    assert [path.stat().st_mtime_ns for path in paths] == before
