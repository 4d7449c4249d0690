"""Grids of runs: settings, which cells run, and the files of a grid.

No cell trains here: a function replaces the workers.
"""

import json
import pathlib

import pytest
from etils import epath

from benchmarks import harness
from experiments import ablation, grid, noise
from experiments.grid import Cell, Noise
from rdfer_jax import config as config_lib
from rdfer_jax.pipeline import source

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/synthetic.py")
NONE, SOME = Noise("none", 0.0, 0), Noise("confusion", 0.3, 0)


def test_settings_come_from_the_file_and_from_the_overrides():
    plain = grid.load(CONFIG, {})
    assert plain.loss.method == "agreement" and plain.build["num_train"] == 4000
    changes = {
        "loss.method": "gce", "build.num_train": 5, "seed": 3, "augment.crop_area": (0.5, 0.7)
    }  # fmt: skip
    found = grid.load(CONFIG, changes)
    assert found.loss.method == "gce" and found.build["num_train"] == 5 and found.seed == 3
    assert found.augment.crop_area == (0.5, 0.7)
    back = config_lib.to_dict(found)
    for name in changes:
        *section, field = name.split(".")
        of = config_lib.to_dict(plain)
        (back[section[0]] if section else back)[field] = (of[section[0]] if section else of)[field]
    assert config_lib.resolve(back) == plain  # and nothing else has changed
    assert grid.load(CONFIG, {}) == plain


def test_a_file_of_settings_can_take_an_argument():
    data = grid.load(f"{ROOT}/configs/dfew.py:3", {"data.batch_size": 8}).data
    assert (data.test_split, data.batch_size) == ("fold3", 8)
    assert grid.load(f"{ROOT}/configs/dfew.py", {}).data.test_split == "fold1"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loss.metod", "gce", "config.loss.metod: no such setting. Did you mean 'method'"),
        ("los.method", "gce", "config.los: no such setting. Did you mean 'loss'"),
        ("sed", 3, "Did you mean 'seed'"),
        ("seed.x", 3, "config.seed.x: seed is a setting, not a section"),
        ("data.frames.x", 3, "frames is a setting, not a section"),
        ("loss.method", "magic", "expected one of agreement"),
        ("loss.hard", "much", "expected float, got 'much'"),
        ("loss.method", "elr", None),
    ],
)
def test_a_setting_that_is_unknown_or_does_not_fit_is_an_error(name, value, message):
    if message is None:  # it fits, as long as there is a memory
        message = "memory_decay"
        grid.load(CONFIG, {name: value, "agreement.memory_decay": 0.7})
        value = {name: value, "agreement.memory_decay": 0.0}
    else:
        value = {name: value}
    with pytest.raises(ValueError, match=message):
        grid.load(CONFIG, value)


def test_the_settings_of_a_grid_are_those_of_the_code_then_of_the_command_line(tmp_path):
    output = epath.Path(tmp_path)
    words = [
        "loss.hard=0.25", "train.duration=3 steps", "key.enabled=False", "agreement.measure=vote",
        "augment.crop_area=(0.5, 1.0)", "data.batch_size=8", "optim.learning_rate=1e-3",
        "data.labels=a=b.csv",
    ]  # fmt: skip
    found = grid.base(output, {"train.duration": "9 epochs", "loss.long": 0.0}, words)
    assert found == {
        "compile_cache": str(tmp_path / "compiled"),
        "data.frame_cache": str(tmp_path / "frames"), "train.duration": "3 steps", "loss.long": 0.0,
        "loss.hard": 0.25, "key.enabled": False, "agreement.measure": "vote",
        "augment.crop_area": (0.5, 1.0), "data.batch_size": 8, "optim.learning_rate": 0.001,
        "data.labels": "a=b.csv",
    }  # fmt: skip
    config = grid.load(CONFIG, found)
    assert config.train.duration == "3 steps" and config.augment.crop_area == (0.5, 1.0)
    # What the grid builds for itself lies in its folder, unless told otherwise.
    assert "data.dir" not in grid.base(output, {})
    built = {"build": {"num_train": 3}}
    assert grid.base(output, built)["data.dir"] == str(tmp_path / "tfds")
    assert grid.base(output, built, ["data.dir=here"])["data.dir"] == "here"


def test_the_name_of_noise_tells_its_kind_rate_and_seed():
    noises = [Noise(k, r, s) for k in ("a", "b") for r in (0.1, 0.15, 0.2) for s in (0, 1)]
    assert len({noise.name for noise in noises}) == len(noises)
    assert Noise("a", 0.3, 7).name == "a-0.3-s7"
    assert Noise("a", 0.0, 7).name == "none"


class Processes:
    """Replaces the workers and the injection of wrong labels."""

    def __init__(self, monkeypatch):
        self.started, self.programs, self.injected, self.failing = [], [], [], set()
        monkeypatch.setattr(grid.workers, "run", self._run)
        monkeypatch.setattr(grid.inject, "write_flips", self._write_flips)

    def _run(self, programs, jobs, done):
        self.programs += programs.values()
        for folder in programs:
            self.started.append(folder.name)
            (folder / "log.txt").write_text("running\n")
            if folder.name not in self.failing:
                spec = json.loads((folder / "cell.json").read_text())
                result = {"name": spec["name"], "spec": spec}
                (folder / "result.json").write_text(json.dumps(result))
            done(folder, folder.name not in self.failing)

    def _write_flips(self, data, kind, rate, seed, path):
        self.injected.append((data.dir, kind, rate, seed, epath.Path(path).name))
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
        epath.Path(path).write_text("labels")


@pytest.fixture
def processes(monkeypatch):
    return Processes(monkeypatch)


def run(tmp_path, found, jobs=1, **overrides):
    return grid.run(found, epath.Path(tmp_path), config=CONFIG, overrides=overrides, jobs=jobs)


GRID = [
    Cell("gce-noisy", {"loss.method": "gce"}, SOME, 0),
    Cell("ours-noisy", {"loss.hard": 0.0}, SOME, 0),
    Cell("ours-more", {}, Noise("symmetric", 0.4, 1), 1),
    Cell("ours-none", {}, NONE, 2),
]


def test_a_grid_runs_each_cell_with_its_settings_and_labels(tmp_path, processes):
    results = run(tmp_path, GRID, **{"loss.hard": 1.0, "data.dir": "here"})
    assert [r["name"] for r in results] == [cell.name for cell in GRID]
    assert sorted(processes.started) == sorted(cell.name for cell in GRID)
    labels = str(tmp_path / "labels")
    common = {"loss.hard": 1.0, "data.dir": "here"}
    assert [r["spec"]["settings"] for r in results] == [
        common | {"loss.method": "gce", "seed": 0, "data.labels": f"{labels}/confusion-0.3-s0.csv"},
        common | {"loss.hard": 0.0, "seed": 0, "data.labels": f"{labels}/confusion-0.3-s0.csv"},
        common | {"seed": 1, "data.labels": f"{labels}/symmetric-0.4-s1.csv"},
        common | {"seed": 2},
    ]
    assert results[2]["spec"]["noise"] == {"kind": "symmetric", "rate": 0.4, "seed": 1}
    # Cells with the same noise learn from the same file, which is written once.
    assert sorted(processes.injected) == [
        ("here", "confusion", 0.3, 0, "confusion-0.3-s0.csv"),
        ("here", "symmetric", 0.4, 1, "symmetric-0.4-s1.csv"),
    ]
    assert (tmp_path / "cells/gce-noisy/log.txt").read_text() == "running\n"


def test_a_finished_cell_is_not_run_again(tmp_path, processes):
    first = run(tmp_path, GRID[:2])
    processes.started.clear()
    processes.injected.clear()
    assert run(tmp_path, GRID[:2]) == first
    assert not processes.started and not processes.injected
    both = run(tmp_path, GRID)
    assert both[:2] == first
    assert sorted(processes.started) == ["ours-more", "ours-none"]


@pytest.mark.parametrize(
    "other",
    [
        Cell("gce-noisy", {"loss.method": "sce"}, SOME, 0),
        Cell("gce-noisy", {"loss.method": "gce"}, SOME, 1),
        Cell("gce-noisy", {"loss.method": "gce"}, Noise("confusion", 0.2, 0), 0),
    ],
)
def test_a_finished_cell_with_other_settings_is_refused(tmp_path, processes, other):
    run(tmp_path, GRID[:1])
    processes.started.clear()
    with pytest.raises(ValueError, match="gce-noisy holds a finished cell with other settings"):
        run(tmp_path, [GRID[3], other])
    with pytest.raises(ValueError, match="other settings"):
        run(tmp_path, GRID[:1], **{"loss.hard": 0.0})
    assert not processes.started


def test_nothing_is_done_where_a_setting_of_any_cell_is_unknown(tmp_path, processes):
    wrong = Cell("wrong", {"loss.metod": "gce"}, SOME, 0)
    with pytest.raises(ValueError, match="Did you mean 'method'"):
        run(tmp_path, [*GRID, wrong])
    with pytest.raises(ValueError, match="Did you mean 'loss'"):
        run(tmp_path, GRID, **{"los.hard": 0.0})
    with pytest.raises(ValueError, match="same name"):
        run(tmp_path, [GRID[0], GRID[0]])
    assert not processes.started and not processes.injected and not list(tmp_path.iterdir())


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_cell_that_fails_is_reported_after_the_others_have_finished(tmp_path, processes, jobs):
    processes.failing = {"gce-noisy", "ours-more"}
    with pytest.raises(RuntimeError, match="2 of 4 cells failed") as caught:
        run(tmp_path, GRID, jobs=jobs)
    told = str(caught.value).splitlines()[1:]
    assert told == [f"  {tmp_path}/cells/{name}" for name in ("gce-noisy", "ours-more")]
    finished = {path.parent.name for path in tmp_path.glob("cells/*/result.json")}
    assert finished == {"ours-noisy", "ours-none"}
    processes.started.clear()
    processes.failing = set()
    assert len(run(tmp_path, GRID, jobs=jobs)) == 4
    assert sorted(processes.started) == ["gce-noisy", "ours-more"]


def test_cells_that_differ_in_seed_and_labels_alone_share_a_program(tmp_path, processes):
    others = [Cell("other-seed", {"loss.method": "gce"}, Noise("symmetric", 0.2, 5), 5)]
    run(tmp_path, [*GRID, *others])
    gce, hard, more, none, seed = processes.programs
    assert gce == seed and more == none and len({gce, hard, more}) == 3


def test_a_cell_with_options_of_the_builder_has_its_own_data_and_labels(
    tmp_path, processes, monkeypatch
):
    built = []
    monkeypatch.setattr(grid, "ensure_built", built.append)
    asked = [
        Cell(f"gce-{seed}", {}, Noise("confusion", 0.3, 0), 0, build={"seed": seed})
        for seed in (101, 102)
    ]
    results = run(tmp_path, asked, build={"num_train": 20, "seed": 0})
    settings = [result["spec"]["settings"] for result in results]
    assert [s["build"]["seed"] for s in settings] == [101, 102]
    assert all(s["build"]["num_train"] == 20 for s in settings)
    assert len({s["data.variant"] for s in settings}) == 2
    assert [config.data.variant for config in built] == [s["data.variant"] for s in settings]
    for s in settings:
        assert s["data.labels"] == f"{tmp_path}/labels/{s['data.variant']}/confusion-0.3-s0.csv"
    assert len(processes.injected) == 2
    # Another size is another data set, even with the same seed.
    other = grid._spec(asked[0], epath.Path(tmp_path), CONFIG, {"build": {"num_train": 30}})
    assert other["settings"]["data.variant"] not in {s["data.variant"] for s in settings}


def test_a_report_says_where_its_numbers_come_from():
    first = {
        "name": "one", "seed": 0, "noise": None, "commit": "b", "hardware": "gpu", "seconds": 1.5,
        "settings": {"seed": 0, "data.dir": "/here", "compile_cache": "/here/too"},
        "results": {"war": 0.5, "absent_classes": [], "uar": None},
    }  # fmt: skip
    second = first | {"name": "two", "commit": "a", "seconds": 2.0}
    found = grid.provenance([first, second])
    told = found.pop("cells")
    assert found == {"commits": ["a", "b"], "hardware": ["gpu"], "seconds": 3.5}
    # Lists are left out, and so are the places of files.
    plain = {"settings": {"seed": 0}, "results": {"war": 0.5, "uar": None}}
    assert told == [first | plain, second | plain]


def test_cells_that_finished_elsewhere_are_not_run_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(grid.inject, "write_flips", lambda *args: None)

    def finish(folders, jobs):
        ran.extend(folder.name for folder in folders)
        for folder in folders:
            spec = json.loads((folder / "cell.json").read_text())
            result = {"name": folder.name, "settings": spec["settings"], "results": {"war": 0.1}}
            (folder / "result.json").write_text(json.dumps(result))
        return []

    monkeypatch.setattr(grid, "_run_all", finish)
    asked = [grid.Cell(name, {}, grid.Noise("confusion", 0.3, 0), 0) for name in ("one", "two")]
    options = {"config": CONFIG, "jobs": 1}
    here = grid.run(asked, tmp_path / "a", overrides={"data.dir": "/here"}, **options)
    one = here[0] | {"settings": grid._portable(here[0]["settings"]), "results": {"war": 0.9}}
    ran.clear()
    there = grid.run(
        asked, tmp_path / "b", overrides={"data.dir": "/there"}, finished=[one], **options
    )
    assert ran == ["two"] and [r["results"]["war"] for r in there] == [0.9, 0.1]
    other = one | {"settings": one["settings"] | {"seed": 5}}
    with pytest.raises(ValueError, match="--add has cell one with other settings"):
        grid.run(asked, tmp_path / "c", overrides={}, finished=[other], **options)


@pytest.mark.parametrize("name", ["noise", "ablation"])
def test_the_published_results_can_be_added(tmp_path, monkeypatch, name):
    stored = json.loads((ROOT / f"docs/results/{name}_small.json").read_text())["cells"]
    monkeypatch.setattr(grid.inject, "write_flips", lambda *args: None)
    monkeypatch.setattr(grid, "_run_all", lambda folders, jobs: [str(f) for f in folders])
    seeds = [0, 1, 2]
    if name == "noise":
        asked = noise.cells(list(noise.METHODS), ["confusion"], [0.0, 0.3], seeds)
    else:
        asked = ablation.cells(["streams", "key"], "confusion", 0.3, seeds)
    asked = [cell for cell in asked if cell.name in {result["name"] for result in stored}]
    output = epath.Path(tmp_path)
    overrides = grid.base(output, noise.SIZES["small"] | noise.QUIET)
    found = grid.run(asked, output, config=CONFIG, overrides=overrides, jobs=1, finished=stored)
    assert len(found) >= 9
    assert [result["name"] for result in found] == [cell.name for cell in asked]


def test_a_report_is_valid_json():
    nan, endless = float("nan"), float("inf")
    report = {"rows": [{"mean": 0.5, "low": nan}, None], "n": 3, "limits": (nan, -endless, 1.0)}
    text = harness.to_json(report)
    expected = {"rows": [{"mean": 0.5, "low": None}, None], "n": 3, "limits": [None, None, 1.0]}
    assert json.loads(text) == expected and "NaN" not in text


@pytest.mark.parametrize(("name", "builds"), [("synthetic_faces", True), ("dfew", False)])
def test_only_the_synthetic_set_is_built(monkeypatch, name, builds):
    from data import builder

    built = []
    monkeypatch.setattr(builder, "build", lambda *args, **kwargs: built.append((args, kwargs)))
    monkeypatch.setattr(source, "find", lambda data: None)
    config = grid.load(CONFIG, {"data.name": name, "data.dir": "here", "build": {"num_train": 3}})
    grid.ensure_built(config)
    told = {"variant": "default", "options": {"num_train": 3}, "tells": False}
    wanted = ((name, "here"), told)
    assert built == ([wanted] if builds else [])


def test_a_synthetic_set_with_other_options_is_refused(tmp_path):
    options = {"num_train": 7, "num_test": 7, "num_frames": 8, "image_size": 16}
    settings = {"data.dir": str(tmp_path), "build": options}
    grid.ensure_built(grid.load(CONFIG, settings))
    with pytest.raises(ValueError, match="other options"):
        grid.ensure_built(grid.load(CONFIG, settings | {"build": options | {"num_train": 14}}))


def not_found():
    raise source.DatasetNotFoundError("missing")


def test_a_recorded_set_that_is_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(source, "find", lambda data: not_found())
    with pytest.raises(source.DatasetNotFoundError):
        grid.ensure_built(grid.load(f"{ROOT}/configs/dfew.py", {}))
