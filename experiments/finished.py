"""Reads finished runs for a table: what each method predicted for the same clips, with which protocol.

Enters: folders of runs, cross-validations or cells of a grid, by method. Leaves: `Compared`, the
predictions of all methods for the seeds that they share, and what the runs have in common and what differs.

Runs of one method with the same seed that were tested on different folds, such as those of dfew:1 to
dfew:5, count as one cross-validation.

Letters: M methods, S seeds, B clips.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from numpy.typing import NDArray

from benchmarks import harness
from rdfer_jax import paths
from rdfer_jax.config import Config
from rdfer_jax.training import run_dir
from rdfer_jax.training.predictions import OUT_OF_FOLD, TEST_FILE, read_predictions


class RunsError(ValueError):
    """The runs cannot be compared; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The predictions of a finished run or cross-validation.

    Attributes:
      folder: where they lie.
      seed: config.seed.
      classes: names of the classes.
      clip_id: str [B].
      label: int [B].
      fold: str [B], the fold in which a clip was tested.
      predicted: int [B], the most likely class.
      facts: the protocol in words, by topic.
    """

    folder: str
    seed: int
    classes: tuple[str, ...]
    clip_id: NDArray[np.str_]
    label: NDArray[np.integer]
    fold: NDArray[np.str_]
    predicted: NDArray[np.integer]
    facts: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Compared:
    """Methods that were tested on the same clips.

    Attributes:
      methods: their M names.
      seeds: the S seeds that all of them have.
      unused: by method, seeds that not all of them have.
      classes: names of the classes.
      folds: names of the folds.
      label: int [B].
      fold: str [B].
      predicted: int [M, S, B].
      facts: by topic, what holds for all methods.
      differ: by topic, what holds for each method, where that differs.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    unused: Mapping[str, tuple[int, ...]]
    classes: tuple[str, ...]
    folds: tuple[str, ...]
    label: NDArray[np.integer]
    fold: NDArray[np.str_]
    predicted: NDArray[np.integer]
    facts: Mapping[str, str]
    differ: Mapping[str, Mapping[str, str]]


def parse(words: Sequence[str]) -> dict[str, list[str]]:
    """Returns the folders of each method from words METHOD=GLOB; several globs of a method add up.

    Raises:
      RunsError: a word has another form, or a glob matches no folder, or a folder is named twice.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        method, equals, pattern = word.partition("=")
        if not (method and equals and pattern):
            raise RunsError(
                f"--runs={word}: expected METHOD=GLOB, such as --runs='ours=runs/ours_s*'"
            )
        for folder in matching(pattern):
            if folder in found.get(method, []):
                raise RunsError(f"--runs={word}: {folder} is named twice")
            found.setdefault(method, []).append(folder)
    return found


def matching(pattern: str) -> list[str]:
    """Returns the folders that a glob matches, in order.

    Raises:
      RunsError: there is none.
    """
    path = epath.Path(paths.expand(pattern)).absolute()
    found = sorted(str(f) for f in epath.Path("/").glob(str(path)[1:]) if f.is_dir())
    if not found:
        raise RunsError(f"no folder matches {pattern}")
    return found


def read(folder: str) -> Run:
    """Reads the folder of a run, a cross-validation, or a cell of a grid.

    Raises:
      RunsError: it has not finished, or holds something else.
    """
    path = epath.Path(folder)
    try:
        if (path / "cell.json").exists():
            spec = json.loads((path / "cell.json").read_text())
            config = harness.load(spec["config"], spec["settings"])
            results = json.loads((path / "result.json").read_text())["results"]
            saved = read_predictions(path / "run" / TEST_FILE, ("clip_id", "logits"))
        else:
            config = run_dir.read(path).config
            results = json.loads((path / "results.json").read_text())
            saved = read_predictions(path / TEST_FILE, ("clip_id", "logits"))
    except (OSError, ValueError, KeyError) as error:
        raise RunsError(
            f"{folder}: not a finished run, cross-validation or cell ({error}). Finish it, or choose "
            "another glob"
        ) from None
    if saved.split == OUT_OF_FOLD:
        fold = np.char.add("fold", saved["fold"].astype(str))
    else:
        part = config.data.fold.split("/")[0]
        fold = np.full(len(saved["label"]), f"fold{part}" if part else saved.split)
    return Run(
        folder=folder,
        seed=config.seed,
        classes=saved.classes,
        clip_id=saved["clip_id"],
        label=saved["label"],
        fold=fold,
        predicted=saved["logits"].argmax(axis=-1),
        facts=_facts(config, results),
    )


def _facts(config: Config, results: Mapping[str, Any]) -> dict[str, str]:
    clips = config.clips.eval_number or config.clips.number
    views = f"{clips} temporal x {config.augment.eval_crops} spatial views"
    if config.augment.eval_views != "plain":
        views += f", {config.augment.eval_views}"
    labels = epath.Path(config.data.labels).name if config.data.labels else "as stored"
    # A cross-validation has no checkpoint of its own: it gathers the last ones.
    return {
        "data": config.data.name,
        "checkpoint": str(results.get("checkpoint", "last")),
        "views": views,
        "frames": f"{config.clips.frames} frames a view of {config.data.frames} read",
        "training labels": f"{labels} (variant {config.data.variant})",
    }


def compare(folders: Mapping[str, Sequence[str]]) -> Compared:
    """Reads the runs of each method and brings them together.

    Raises:
      RunsError: there is a single method, or no seed that all have; or the runs differ in classes, clips,
        labels, folds, data set or checkpoint; or a fold was run twice with one seed.
    """
    if not folders:
        raise RunsError("no runs: give --runs=METHOD=GLOB")
    by_method = {method: _by_seed(method, list(map(read, f))) for method, f in folders.items()}
    shared = sorted(set.intersection(*(set(seeds) for seeds in by_method.values())))
    if not shared:
        text = "; ".join(f"{m}: {', '.join(map(str, sorted(s)))}" for m, s in by_method.items())
        raise RunsError(
            f"no seed that all methods have ({text}). Paired differences need common seeds"
        )
    first = next(iter(by_method.values()))[shared[0]]
    facts: dict[str, dict[str, str]] = {topic: {} for topic in first.facts}
    for method, runs in by_method.items():
        for seed in shared:
            _check_same(runs[seed], first)
            for topic, words in runs[seed].facts.items():
                if facts[topic].setdefault(method, words) != words:
                    raise RunsError(
                        f"{runs[seed].folder}: {topic} is {words}, but {facts[topic][method]} in another "
                        f"run of {method}. Give the two as different methods"
                    )
    for topic in ("data", "checkpoint"):
        if len(set(facts[topic].values())) > 1:
            text = ", ".join(f"{method}: {words}" for method, words in facts[topic].items())
            raise RunsError(f"the methods differ in {topic} ({text}), so a table would not be fair")
    return Compared(
        methods=tuple(by_method),
        seeds=tuple(shared),
        unused={
            m: tuple(sorted(set(s) - set(shared)))
            for m, s in by_method.items()
            if set(s) - set(shared)
        },
        classes=first.classes,
        folds=tuple(dict.fromkeys(sorted(first.fold.tolist()))),
        label=first.label,
        fold=first.fold,
        predicted=np.array([[runs[s].predicted for s in shared] for runs in by_method.values()]),
        facts={t: next(iter(w.values())) for t, w in facts.items() if len(set(w.values())) == 1},
        differ={t: w for t, w in facts.items() if len(set(w.values())) > 1},
    )


def _by_seed(method: str, runs: Sequence[Run]) -> dict[int, Run]:
    """Joins the folds of each seed; clips in the order of fold and name."""
    found: dict[int, list[Run]] = {}
    for run in runs:
        for other in found.get(run.seed, []):
            if set(run.fold.tolist()) & set(other.fold.tolist()):
                raise RunsError(
                    f"{method}: {other.folder} and {run.folder} have the same seed {run.seed} and the same "
                    "fold. Leave one out, or give them as different methods"
                )
            if run.classes != other.classes or run.facts != other.facts:
                raise RunsError(
                    f"{method}: {other.folder} and {run.folder} are folds of seed {run.seed} with "
                    "different settings"
                )
        found.setdefault(run.seed, []).append(run)
    return {seed: _joined(parts) for seed, parts in found.items()}


def _joined(parts: Sequence[Run]) -> Run:
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("clip_id", "label", "fold", "predicted")
    }
    order = np.lexsort((columns["clip_id"], columns["fold"]))
    return dataclasses.replace(parts[0], **{name: c[order] for name, c in columns.items()})


def _check_same(run: Run, first: Run) -> None:
    for name in ("classes", "clip_id", "fold", "label"):
        one, other = getattr(run, name), getattr(first, name)
        if not np.array_equal(one, other):
            what = {"clip_id": "clips", "fold": "folds", "label": "test labels"}.get(name, name)
            raise RunsError(
                f"{run.folder} and {first.folder} differ in their {what} ({len(one)} and {len(other)}), so "
                "they cannot be paired"
            )
