"""Grids of training runs: a cell is one run in a process of its own; a finished cell is not run again.

A cell's folder holds its cell.json (what was asked for), the training run, log.txt, and, once it has
finished, result.json. Runs are the same code as `python -m rdfer_jax.main`: this module only chooses the
settings, starts processes side by side, and gathers what they found.
"""

import ast
import concurrent.futures
import dataclasses
import importlib.util
import json
import math
import os
import platform
import queue
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from etils import epath
from tqdm import tqdm

from rdfer_jax import build, plots
from rdfer_jax import config as config_lib
from rdfer_jax.config import Config
from rdfer_jax.labels import inject
from rdfer_jax.pipeline import source
from rdfer_jax.training.run_dir import commit as commit

#: Settings that differ from machine to machine and change no result.
PLACES = ("compile_cache", "data.dir", "data.labels")


@dataclasses.dataclass(frozen=True)
class Noise:
    """Wrong labels to put into the training split; see rdfer_jax/labels/inject.py."""

    kind: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the file of labels."""
        return f"{self.kind}-{self.rate:g}-s{self.seed}" if self.rate else "none"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
      name: of its folder.
      overrides: settings by their path, such as {"loss.method": "gce"}, over those of the grid.
      noise: the wrong labels it learns from.
      seed: of its parameters, order and augmentation.
    """

    name: str
    overrides: Mapping[str, Any]
    noise: Noise
    seed: int


def load(path: str, overrides: Mapping[str, Any]) -> Config:
    """Returns the settings of a file, such as configs/dfew.py or configs/dfew.py:3, with some changed.

    Raises:
      ValueError: a setting is unknown or does not fit.
    """
    file, _, argument = path.partition(":")
    get_config = runpy.run_path(file)["get_config"]
    settings = (get_config(argument) if argument else get_config()).to_dict()
    for name, value in overrides.items():
        *parents, last = name.split(".")
        section = settings
        for parent in parents:
            section = section.setdefault(parent, {})  # resolve tells of one that is unknown
            if not isinstance(section, dict):
                raise ValueError(f"config.{name}: {parent} is a setting, not a section")
        section[last] = value
    return config_lib.resolve(settings)


def base(
    output: epath.Path, changes: Mapping[str, Any], more: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the settings of a grid: `changes`, then "name=value" strings of the command line.

    Programs compiled for one cell are kept for the others. A data set that the grid builds for itself
    lies in its folder.
    """
    overrides = {"compile_cache": str(output / "compiled")} | dict(changes)
    if "build" in changes:
        overrides["data.dir"] = str(output / "tfds")
    return overrides | parsed(more)


def parsed(texts: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of "name=value" strings, such as those of --set."""
    found: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            found[name] = value  # a word, such as soft
    return found


def run(
    cells: Sequence[Cell],
    output: epath.Path,
    *,
    config: str,
    overrides: Mapping[str, Any],
    jobs: int,
    known: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Runs the cells that have not finished yet, `jobs` at a time, and returns the results of all.

    On a CPU each job is bound to its share of the cores: runs side by side on one core each get more
    done than one run on all of them. On a GPU each gets its share of the memory.

    Args:
      cells: with names that differ.
      output: folder of the grid.
      config: file of the settings, see `load`.
      overrides: settings of the whole grid.
      jobs: runs side by side.
      known: results of cells that have finished elsewhere, as a report has them; they are not run.

    Raises:
      ValueError: a setting is unknown, or a cell of that name was run with other settings.
      RuntimeError: cells failed; the others have finished.
    """
    if len({cell.name for cell in cells}) < len(cells):
        raise ValueError("two cells have the same name")
    specs = {
        cell.name: _spec(cell, output, config, dict(overrides)) for cell in cells
    }  # checks all settings before any work
    labels = {cell.noise.name: cell.noise for cell in cells if cell.noise.rate}
    for name, noise in labels.items():
        path = output / "labels" / f"{name}.csv"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            data = load(config, overrides).data
            inject.write_flips(data, noise.kind, noise.rate, noise.seed, path)
    elsewhere = {result["name"]: dict(result) for result in known}
    todo = []
    for name, spec in specs.items():
        folder = output / "cells" / name
        if name in elsewhere:
            if elsewhere[name]["settings"] != _anywhere(spec["settings"]):
                raise ValueError(f"the report of --add has cell {name} with other settings")
        elif (folder / "result.json").exists():
            _check_same(folder, spec)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cell.json").write_text(json.dumps(spec, indent=2) + "\n")
            todo.append(folder)
    failed = _run_all(todo, jobs)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(todo)} cells failed; see log.txt in:\n  " + "\n  ".join(failed)
        )
    return [
        elsewhere.get(name) or json.loads((output / "cells" / name / "result.json").read_text())
        for name in specs
    ]


def _run_all(folders: Sequence[epath.Path], jobs: int) -> list[str]:
    """Runs cells side by side; returns the folders of those that failed."""
    slots: queue.Queue[int] = queue.Queue()
    for slot in range(jobs):
        slots.put(slot)

    def run_one(folder: epath.Path) -> bool:
        slot = slots.get()
        try:
            with (folder / "log.txt").open("w") as log:
                command = [sys.executable, "-m", "experiments.grid", str(folder)]
                environment = os.environ | {
                    "CELL_SLOT": f"{slot}/{jobs}",
                    "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / jobs:.3f}",
                }
                return subprocess.run(
                    command, stdout=log, stderr=log, env=environment, check=False
                ).returncode == 0  # fmt: skip
        finally:
            slots.put(slot)

    failed = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(run_one, folder): folder for folder in folders}
        bar = tqdm(total=len(folders), unit="cell", disable=not sys.stderr.isatty())
        for done in concurrent.futures.as_completed(running):
            if not done.result():
                failed.append(str(running[done]))
            bar.update()
        bar.close()
    return sorted(failed)


def _spec(cell: Cell, output: epath.Path, config: str, overrides: dict[str, Any]) -> dict[str, Any]:
    settings = overrides | dict(cell.overrides) | {"seed": cell.seed}
    if cell.noise.rate:
        settings["data.labels"] = str(output / "labels" / f"{cell.noise.name}.csv")
    load(config, settings)
    noise = dataclasses.asdict(cell.noise)
    return {"name": cell.name, "config": config, "settings": settings, "noise": noise}


def _anywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that only say where files lie."""
    return {name: value for name, value in settings.items() if name not in PLACES}


def _check_same(folder: epath.Path, spec: Mapping[str, Any]) -> None:
    before = json.loads((folder / "cell.json").read_text())
    if before != json.loads(json.dumps(spec)):
        raise ValueError(
            f"{folder} holds a finished cell with other settings; delete it, or take another --output"
        )


def run_cell(folder: epath.Path) -> None:
    """Runs the cell of a folder, in this process, and writes its result.json."""
    from rdfer_jax.training import train

    spec = json.loads((folder / "cell.json").read_text())
    config = load(spec["config"], spec["settings"])
    if config.compile_cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", config.compile_cache)
    workdir = folder / "run"
    code = commit()  # before it changes
    start = time.monotonic()
    results = train.train(config, workdir)
    result = {
        "name": spec["name"],
        "noise": spec["noise"],
        "seed": config.seed,
        "settings": spec["settings"],
        "results": results,
        "seconds": time.monotonic() - start,
        "commit": code,
        "hardware": hardware(),
    }
    # A grid would fill the disk with checkpoints.
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    part = folder / "result.json.part"
    part.write_text(json.dumps(result, indent=2) + "\n")
    part.replace(folder / "result.json")


def define_flags(output: str, sizes: Sequence[str]) -> None:
    """Defines the flags that every grid has."""
    flags.DEFINE_string("config", "configs/synthetic.py", "File of the settings.")
    flags.DEFINE_enum("size", sizes[0], sizes, "Changes of the settings; config: none.")
    flags.DEFINE_list("seeds", "0,1,2", "Seeds.")
    flags.DEFINE_integer("jobs", 1, "Runs side by side.", lower_bound=1)
    flags.DEFINE_string("output", output, "Folder for everything.")
    flags.DEFINE_multi_string("add", [], "Report (.json) of cells that finished elsewhere.")
    flags.DEFINE_multi_string("set", [], "Further settings, such as optim.learning_rate=0.001.")


def run_asked(
    cells: Sequence[Cell], changes: Mapping[str, Any]
) -> tuple[epath.Path, list[dict[str, Any]]]:
    """Runs what is missing of a grid as the flags say; returns its folder and all results.

    Args:
      cells: as in `run`.
      changes: settings of the whole grid, before those of --set.
    """
    options = flags.FLAGS
    output = epath.Path(options.output).expanduser().absolute()
    overrides = base(output, changes, options.set)
    ensure_built(load(options.config, overrides))
    known = [
        cell for path in options.add for cell in json.loads(epath.Path(path).read_text())["cells"]
    ]
    return output, run(
        cells, output, config=options.config, overrides=overrides, jobs=options.jobs, known=known
    )


def check_known(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises a UsageError if a flag names something unknown."""
    if unknown := set(given) - set(known):
        raise app.UsageError(f"{flag}: no {', '.join(unknown)}; there are {', '.join(known)}")


def write_report(
    output: epath.Path,
    name: str,
    results: Sequence[Mapping[str, Any]],
    report: dict[str, Any],
    text: str,
    picture: bytes,
) -> None:
    """Writes name.json (with where the results come from), name.md and name.png."""
    (output / f"{name}.json").write_text(to_json(about(results) | report))
    (output / f"{name}.md").write_text(text + "\n")
    plots.save(picture, output / f"{name}.png")


def about(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a report says of where its numbers come from."""
    return {
        "commits": sorted({r["commit"] for r in results}),
        "hardware": sorted({r["hardware"] for r in results}),
        "seconds": sum(r["seconds"] for r in results),
        "cells": [
            {
                "name": result["name"],
                "seed": result["seed"],
                "noise": result["noise"],
                "settings": _anywhere(result["settings"]),
                "commit": result["commit"],
                "hardware": result["hardware"],
                "seconds": result["seconds"],
                "results": {
                    name: value
                    for name, value in result["results"].items()
                    if value is None or isinstance(value, int | float | str)
                },
            }
            for result in results
        ],
    }


def line(texts: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(texts) + " |"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *rest = rows
    return "\n".join(map(line, [head, ["---"] * len(head), *rest]))


def has_torch() -> bool:
    """Whether PyTorch is installed to compare with; says so if it is not."""
    if importlib.util.find_spec("torch") is not None:
        return True
    print(
        "PyTorch is not installed, so that there is nothing to compare with: "
        "pip install -e '.[torch]'",
        file=sys.stderr,
    )
    return False


def to_json(report: Any) -> str:
    """A report as text; numbers that are not finite, such as the limits of a single seed, become null."""
    return json.dumps(_finite(report), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def hardware() -> str:
    """The devices, and the cores that this process may use."""
    import jax

    device = jax.devices()[0]
    kind = device.device_kind if device.platform != "cpu" else platform.machine()
    return (
        f"{jax.device_count()} {device.platform} ({kind}), {cores()} cores, jax {jax.__version__}"
    )


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _take_share() -> None:
    """Binds this process to its share of the cores, where the system lets it."""
    slot, jobs = map(int, os.environ.get("CELL_SLOT", "0/1").split("/"))
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs]
        os.sched_setaffinity(0, mine or cores)


def ensure_built(config: Config) -> None:
    """Builds the synthetic set where it is missing; other data sets must have been built.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: the synthetic set was built with other options.
    """
    if config.data.name == "synthetic_faces":
        build.build(config)
    else:
        source.find(config.data)


if __name__ == "__main__":
    _take_share()
    run_cell(epath.Path(sys.argv[1]))
