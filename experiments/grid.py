"""Grids of training runs; a finished run is not repeated.

A cell is one training run of a grid: a name, settings, a data set, wrong labels and a seed. Its folder
OUTPUT/cells/NAME holds cell.json (the settings), run/ (the predictions), log.txt and, once the run has
finished, result.json. Cells are trained by cell.py in the processes of workers.py, with the train step of
`rdfer train`; this module builds the data sets, chooses settings and collects the results.
"""

import dataclasses
import hashlib
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
from etils import epath
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks import harness
from benchmarks.harness import load
from experiments import workers
from experiments.cell import program
from rdfer_jax import build, paths, plots
from rdfer_jax.config import Config
from rdfer_jax.labels import inject
from rdfer_jax.pipeline import source

flags.disclaim_key_flags()  # --help lists a flag under the script that asks for it

#: Settings that name places on this machine and do not change results.
PLACES = ("compile_cache", "data.dir", "data.frame_cache", "data.labels")


@dataclasses.dataclass(frozen=True)
class Noise:
    """Wrong labels to inject into the training split; see rdfer_jax/labels/inject.py."""

    kind: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the label file."""
        return f"{self.kind}-{self.rate:g}-s{self.seed}" if self.rate else "none"


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """A run of `rdfer pretrain` that a cell starts from.

    Attributes:
      config: config file, see `harness.load`.
      overrides: as those of a cell.
      build: as that of a cell.
    """

    config: str
    overrides: Mapping[str, Any]
    build: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of a grid.

    Attributes:
      name: name of its folder; differs from those of the other cells.
      overrides: settings by their path, such as {"loss.method": "gce"}, on top of the grid's settings.
      noise: the wrong labels in its training split; injected, unless the overrides name a label file.
      seed: seed of the initial parameters, the order of the data and the augmentation.
      build: options of the data set's builder on top of the grid's, such as {"seed": 201}. A cell with
        any has its own variant of the data set, which is built if it is missing.
      again: for two trainings, the second from scratch on labels that the first one corrected: "first",
        the settings in which the first differs, and the options of labels.relabel.new_labels.
      pretraining: where its trunk's weights come from; None for random weights.
    """

    name: str
    overrides: Mapping[str, Any]
    noise: Noise
    seed: int
    build: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    again: Mapping[str, Any] | None = None
    pretraining: Pretraining | None = None


def base(
    output: epath.Path, changes: Mapping[str, Any], more: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the settings of a whole grid.

    All cells share one cache of compiled programs and one of decoded frames. Data sets that the grid
    builds itself are stored in the folder of the grid.

    Args:
      output: folder of the grid.
      changes: settings by their path.
      more: "name=value" strings from the command line, which override `changes`.
    """
    overrides = {
        "compile_cache": str(output / "compiled"),
        "data.frame_cache": str(output / "frames"),
    } | dict(changes)
    if "build" in changes:
        overrides["data.dir"] = str(output / "tfds")
    return overrides | harness.parse_settings(more)


def run(
    cells: Sequence[Cell],
    output: epath.Path,
    *,
    config: str,
    overrides: Mapping[str, Any],
    jobs: int,
    finished: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Trains the cells that have not finished yet and returns the results of all cells, in their order.

    On a CPU each job is bound to its share of the cores: parallel runs on one core each get more done
    than a single run on all cores. On a GPU each job gets its share of the memory.

    Args:
      cells: cells with different names.
      output: folder of the grid.
      config: config file, see `harness.load`.
      overrides: settings of the whole grid.
      jobs: number of runs in parallel.
      finished: results from other folders or machines, as in a report; these cells are not run.

    Raises:
      ValueError: a setting is invalid, or a cell of the same name was run with other settings.
      RuntimeError: some cells failed; all others have finished.
    """
    if len({cell.name for cell in cells}) < len(cells):
        raise ValueError("two cells have the same name")
    # Checks the settings of all cells before any work starts.
    specs = {cell.name: _spec(cell, output, config, dict(overrides)) for cell in cells}
    elsewhere = {result["name"]: dict(result) for result in finished}
    todo = {}
    for name, spec in specs.items():
        folder = output / "cells" / name
        if name in elsewhere:
            if elsewhere[name]["settings"] != _portable(spec["settings"]):
                raise ValueError(f"the report given with --add has cell {name} with other settings")
        elif (folder / "result.json").exists():
            _check_same(folder, spec)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cell.json").write_text(json.dumps(spec, indent=2) + "\n")
            todo[folder] = program(load(config, spec["settings"]))
    _write_labels([cell for cell in cells if output / "cells" / cell.name in todo], specs)
    failed = _run_all(todo, jobs)
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(todo)} cells failed; see log.txt in:\n  " + "\n  ".join(failed)
        )
    return [
        elsewhere.get(name) or json.loads((output / "cells" / name / "result.json").read_text())
        for name in specs
    ]


def _write_labels(cells: Sequence[Cell], specs: Mapping[str, Mapping[str, Any]]) -> None:
    """Builds the data sets of the cells and writes their label files, unless they exist."""
    for cell in cells:
        spec = specs[cell.name]
        config = load(spec["config"], spec["settings"])
        if cell.build:
            ensure_built(config)
        if first := spec.get("pretraining"):
            ensure_built(load(first["config"], first["settings"]))
        path = epath.Path(config.data.labels)
        if cell.noise.rate and not path.exists():
            inject.write_flips(config.data, cell.noise.kind, cell.noise.rate, cell.noise.seed, path)


def _run_all(folders: Mapping[epath.Path, str], jobs: int) -> list[str]:
    """Runs the cells of folders, given with the programs they need; returns the folders that failed."""
    failed: list[str] = []
    lock = threading.Lock()
    bar = tqdm(total=len(folders), unit="cell", disable=not sys.stderr.isatty())

    def done(folder: epath.Path, finished: bool) -> None:
        with lock:
            if not finished:
                failed.append(str(folder))
            bar.update()

    with bar:
        workers.run(folders, jobs, done)
    return sorted(failed)


def _spec(cell: Cell, output: epath.Path, config: str, overrides: dict[str, Any]) -> dict[str, Any]:
    settings = overrides | dict(cell.overrides) | {"seed": cell.seed}
    labels = f"{cell.noise.name}.csv"
    if cell.build:
        build = dict(load(config, settings).build) | dict(cell.build)
        variant = f"seed{build.get('seed')}-{_digest(build)[:8]}"
        settings |= {"build": build, "data.variant": variant}
        labels = f"{variant}/{labels}"
    if cell.noise.rate and "data.labels" not in cell.overrides:
        settings["data.labels"] = str(output / "labels" / labels)
    load(config, settings)
    noise = dataclasses.asdict(cell.noise)
    spec = {"name": cell.name, "config": config, "settings": settings, "noise": noise}
    if cell.again is not None:
        load(config, settings | cell.again["first"])
        spec["again"] = cell.again
    if (first := cell.pretraining) is not None:
        before = Cell(cell.name, first.overrides, cell.noise, cell.seed, first.build)
        spec["pretraining"] = _spec(before, output, first.config, overrides)
    return spec


def _digest(values: Any) -> str:
    """Returns a hash of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings without PLACES."""
    return {name: value for name, value in settings.items() if name not in PLACES}


def _check_same(folder: epath.Path, spec: Mapping[str, Any]) -> None:
    before = json.loads((folder / "cell.json").read_text())
    if before != json.loads(json.dumps(spec)):
        raise ValueError(
            f"{folder} holds a finished cell with other settings; delete it or choose another --output"
        )


def define_flags(output: str, sizes: Sequence[str]) -> None:
    """Defines the flags of a grid with presets and seeds."""
    define_common_flags(output, "configs/synthetic.py")
    flags.DEFINE_enum(
        "size",
        sizes[0],
        sizes,
        "Preset of data set size and duration; config: as in the config file.",
    )
    flags.DEFINE_list("seeds", "0,1,2", "Seeds, one training run each.")


def define_common_flags(output: str, config: str) -> None:
    """Defines the flags that all grids share."""
    paths.DEFINE_path("config", config, "Config file.")
    flags.DEFINE_integer("jobs", 1, "Number of runs in parallel.", lower_bound=1)
    paths.DEFINE_path("output", output, "Folder for all files of the grid.")
    flags.DEFINE_multi_string(
        "add", [], "Report (.json) with cells that finished elsewhere, which are not run again."
    )
    flags.DEFINE_multi_string("set", [], "Setting of all cells, such as optim.learning_rate=0.001.")


def run_from_flags(
    cells: Sequence[Cell], changes: Mapping[str, Any]
) -> tuple[epath.Path, list[dict[str, Any]]]:
    """Runs the missing cells of a grid with the options of the flags.

    Args:
      cells: as in `run`.
      changes: settings of the whole grid; --set overrides them.

    Returns:
      The folder of the grid, and the results of all cells.
    """
    options = flags.FLAGS
    output = epath.Path(options.output).absolute()
    if not all(cell.build for cell in cells):
        ensure_built(load(options.config, base(output, changes, options.set)))
    return output, train(cells, output, options, added(options.add), changes)


def added(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Returns the cells of other reports, such as those of --add."""
    return [cell for path in paths for cell in json.loads(epath.Path(path).read_text())["cells"]]


def finished(
    output: epath.Path, prefix: str, added: Sequence[Mapping[str, Any]] = ()
) -> dict[str, dict[str, Any]]:
    """Returns the results of all finished cells of a folder, and those of other reports, by name.

    Args:
      output: folder of the grid.
      prefix: with which the names of the cells begin.
      added: as `added` returns them.

    Returns:
      As in a report: settings are without PLACES.
    """
    found = {cell["name"]: dict(cell) for cell in added if cell["name"].startswith(prefix)}
    for path in sorted(output.glob(f"cells/{prefix}*/result.json")):
        result = json.loads(path.read_text())
        found[result["name"]] = result | {"settings": _portable(result["settings"])}
    return found


def settings_of(
    cell: Cell, output: epath.Path, config: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the settings with which a cell is trained, without PLACES, as JSON holds them."""
    spec = _spec(cell, output, config, dict(overrides))
    settings: dict[str, Any] = json.loads(json.dumps(_portable(spec["settings"])))
    return settings


def train(
    cells: Sequence[Cell],
    output: epath.Path,
    options: Any,
    finished: Sequence[Mapping[str, Any]],
    changes: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Runs the missing cells as the flags say: options.config, options.set, options.jobs; see `run`."""
    return run(
        cells,
        output,
        config=options.config,
        overrides=base(output, changes, options.set),
        jobs=options.jobs,
        finished=finished,
    )


def check_known(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raises a UsageError if a flag holds an unknown value."""
    if unknown := set(given) - set(known):
        raise app.UsageError(
            f"{flag}: unknown {', '.join(sorted(unknown))}; choose from {', '.join(known)}"
        )


def write_report(
    output: epath.Path,
    name: str,
    results: Sequence[Mapping[str, Any]],
    report: dict[str, Any],
    text: str,
    picture: Figure,
) -> None:
    """Writes NAME.json (with the origin of the results), NAME.md and NAME.png."""
    (output / f"{name}.json").write_text(harness.to_json(provenance(results) | report))
    (output / f"{name}.md").write_text(text + "\n")
    plots.save(picture, output / f"{name}.png")


def provenance(
    results: Sequence[Mapping[str, Any]], *, with_evidence: bool = False
) -> dict[str, Any]:
    """Returns the commits, hardware, seconds and scalar results of the cells, for a report.

    Args:
      results: of the cells.
      with_evidence: also keep what the tables of the protocol need of each cell, see evidence.py.
    """
    return {
        "commits": sorted({r["commit"] for r in results}),
        "hardware": sorted({r["hardware"] for r in results}),
        "seconds": sum(r["seconds"] for r in results),
        "cells": [
            {
                "name": result["name"],
                "seed": result["seed"],
                "noise": result["noise"],
                "settings": _portable(result["settings"]),
                "commit": result["commit"],
                "hardware": result["hardware"],
                "seconds": result["seconds"],
                "results": {
                    name: value
                    for name, value in result["results"].items()
                    if value is None or isinstance(value, int | float | str)
                },
            }
            | ({"evidence": result["evidence"]} if with_evidence and "evidence" in result else {})
            for result in results
        ],
    }


def ensure_built(config: Config) -> None:
    """Builds the synthetic data set if it is missing; checks that any other data set has been built.

    Raises:
      DatasetNotFoundError: the data set has not been built.
      ValueError: the synthetic data set was built with other options.
    """
    if config.data.name == "synthetic_faces":
        build.build(config)
    else:
        source.find(config.data)
