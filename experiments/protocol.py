"""The protocol of the comparison of methods, fixed before its results; see docs/evidence/protocol.md.

    python -m experiments.choose --output=runs/choose --jobs=2
    python -m experiments.report --choice=runs/choose/choice.json --output=runs/report --jobs=2

Everything that could be tuned is here: the search space of each method, the kinds of wrong labels, the data
sets for choosing and for reporting, the rule of choice, and the comparisons that are claimed. To add a
method, add one entry to `METHODS`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.grid import Cell, Noise

Settings = Mapping[str, Any]

#: The extras, which every method has in all of its tries.
EXTRAS = {
    "loss.label_smoothing": 0.1,
    "agreement.memory_decay": 0.6,  # key expression re-sampling by the consensus over the epochs
}
#: For a method without a setting of its own.
RATES: tuple[Settings, ...] = tuple({"optim.learning_rate": rate} for rate in (5e-4, 1e-3, 2e-3))
#: Settings that are tried first for each method. One more try follows: the best of them at FASTER times the
#: learning rate, which is RATE unless a try says otherwise.
TRIES, FASTER, RATE = 3, 2.0, 1e-3


@dataclasses.dataclass(frozen=True)
class Method:
    """A method and its search space.

    Attributes:
      base: the settings that make the method, over those of `own` and the extras.
      own: three values of its own most important settings.
      again: for a method that trains twice, the second time on corrected labels: as in grid.Cell. Each
        training has half of the epochs.
      is_baseline: whether it is one of the published methods that ours are compared with.
    """

    base: Settings
    own: tuple[Settings, ...] = RATES
    again: Mapping[str, Any] | None = None
    is_baseline: bool = True

    def tried(self) -> list[dict[str, Any]]:
        """Returns the settings of each of the first tries."""
        return [{**EXTRAS, **own, **self.base} for own in self.own]


def faster(settings: Settings) -> dict[str, Any]:
    """Returns the settings of a method's last try, from those of the best of its first tries."""
    rate = settings.get("optim.learning_rate", RATE)
    return {**settings, "optim.learning_rate": FASTER * rate}


def _values(name: str, *values: Any) -> tuple[Settings, ...]:
    return tuple({name: value} for value in values)


#: Thresholds of agreement that act: hard is the fifth of the videos on whose label the clips agree least.
ACTING = {
    "agreement.threshold_kind": "quantile", "agreement.threshold": 0.2,
    "agreement.noise_threshold": 0.5, "agreement.remember": 0.6, "agreement.temperature": 0.5,
    "loss.hard_scale": "rank", "loss.hard_elsewhere": False,
}  # fmt: skip

METHODS: dict[str, Method] = {
    "cross_entropy": Method({"loss.method": "cross_entropy"}),
    "focal": Method({"loss.method": "focal"}, _values("loss.focal_gamma", 0.5, 1.0, 2.0)),
    "gce": Method({"loss.method": "gce"}, _values("loss.gce_q", 0.3, 0.5, 0.7)),
    "sce": Method(
        {"loss.method": "sce"},
        (
            {"loss.sce_alpha": 0.1, "loss.sce_beta": 1.0},
            {"loss.sce_alpha": 1.0, "loss.sce_beta": 1.0},
            {"loss.sce_alpha": 1.0, "loss.sce_beta": 0.3},
        ),
    ),
    "elr": Method(
        {"loss.method": "elr"},
        (
            {"loss.elr_weight": 3.0, "agreement.memory_decay": 0.7},
            {"loss.elr_weight": 1.0, "agreement.memory_decay": 0.9},  # theirs, asymmetric noise
            {"loss.elr_weight": 1.0, "agreement.memory_decay": 0.7},
        ),
    ),
    "small_loss": Method(
        {"loss.method": "small_loss", "loss.robust_from": "30 %"},
        _values("loss.forget_rate", 0.1, 0.2, 0.3),
    ),
    "scn": Method(
        {"loss.method": "scn", "loss.robust_from": "25 %"}, _values("loss.scn_margin", 0.1, 0.2, 0.4)
    ),
    "forward": Method(
        {"loss.method": "forward", "agreement.memory_decay": 0.6},
        _values("loss.robust_from", "20 %", "30 %", "50 %"),
    ),
    "self_calibrated": Method(
        {
            "loss.method": "self_calibrated", "agreement.threshold_kind": "running",
            "agreement.memory_decay": 0.6,
        },
        _values("loss.correct_margin", 0.1, 0.2, 0.3),
        is_baseline=False,
    ),
    "ssr": Method(
        {"loss.method": "ssr", "agreement.memory_decay": 0.6},
        _values("loss.ssr_relabel", 0.6, 0.7, 0.8),
        is_baseline=False,
    ),
    "again": Method(
        # The second training, on the labels that the memory of forward correction gives.
        {"loss.method": "cross_entropy"},
        RATES,
        again={
            "first": {"loss.method": "forward", "agreement.memory_decay": 0.6},
            "score": "posterior",
            "threshold": 0.5,
        },
        is_baseline=False,
    ),
    "agreement": Method(
        {"loss.method": "agreement", "agreement.memory_decay": 0.8},
        (
            # Videos whose clips agree on another class are relabeled, and hard ones reinforced.
            ACTING | {"loss.robust_from": "40 %", "loss.hard": 0.5},
            # The posterior of the true class is the target of every video.
            {"loss.refurbish": "posterior", "loss.robust_from": "40 %", "loss.hard": 0.0},
            # Both: the posterior, and hard videos reinforced.
            ACTING
            | {"loss.refurbish": "posterior", "loss.robust_from": "50 %", "loss.hard": 0.5},
        ),
        is_baseline=False,
    ),
    "oracle": Method({"loss.method": "oracle"}),
}  # fmt: skip

#: The method that knows which labels are wrong: a bound, not a baseline. Nothing is chosen for it: it takes
#: the settings of the method that it is without the wrong labels.
ORACLE, ORACLE_AS = "oracle", "cross_entropy"
#: The methods for which settings are chosen.
CONTESTANTS = tuple(name for name in METHODS if name != ORACLE)


class Condition(NamedTuple):
    """A kind and share of wrong labels, and options of the data set's builder."""

    kind: str
    rate: float
    build: Mapping[str, Any]


CONDITIONS: dict[str, Condition] = {
    "confusion": Condition("confusion", 0.3, {}),
    "symmetric": Condition("symmetric", 0.4, {}),
    "instance": Condition("instance", 0.3, {}),
    "dfew": Condition("confusion", 0.2, {"imbalance": True}),
    "clean": Condition("none", 0.0, {}),
}

#: The cells in which each try is measured for the choice: condition, and seed of the data set.
CHOOSE: tuple[tuple[str, int], ...] = (("confusion", 101),)
#: Seeds of the data sets for the report, which no choice has seen; one for each run seed.
REPORT = (201, 202, 203, 204, 205)
#: Run seeds of the choice and of the report are apart, too.
CHOOSE_RUN_SEED = 1000

#: The data sets, and the settings of all cells.
FACES = {
    "num_train": 2000, "num_test": 2000, "num_frames": 32, "image_size": 48, "flip_rate": 0.0,
    "flip_kind": "symmetric", "hard_share": 0.4, "imbalance": False, "seed": 0, "jpeg_quality": 95,
}  # fmt: skip
CONFIG = "configs/synthetic.py"


def common() -> dict[str, Any]:
    """Returns the settings of all cells."""
    return {"build": FACES, "train.tensorboard": False}


def choose_cells(method: str, number: int, settings: Settings, epochs: int) -> list[Cell]:
    """Returns the cells of a try of a method: one for each pair of CHOOSE.

    Args:
      method: one of METHODS.
      number: of the try; the last is TRIES.
      settings: of the try.
      epochs: length of training.
    """
    name = number if number < TRIES else "faster"
    return [
        _cell(
            f"choose-{method}-{name}-{condition}-b{build_seed}-e{epochs}",
            (method, settings), condition, epochs, build_seed, CHOOSE_RUN_SEED,
        )
        for condition, build_seed in CHOOSE
    ]  # fmt: skip


def report_cells(
    chosen: Mapping[str, Settings], kinds: Sequence[str], epochs: int, seeds: Iterable[int] = REPORT
) -> list[Cell]:
    """Returns the cells of the report: chosen settings by method, each condition and data set."""
    # What the memory holds of fewer clips is measured, not used.
    more = {"agreement.remember_clips": True}
    return [
        _cell(
            f"report-{method}-{condition}-b{build_seed}-e{epochs}",
            (method, {**settings, **more}), condition, epochs, build_seed, build_seed,
        )
        for build_seed in seeds
        for condition in kinds
        for method, settings in chosen.items()
    ]  # fmt: skip


def _cell(
    name: str,
    method: tuple[str, Settings],
    condition: str,
    epochs: int,
    build_seed: int,
    run_seed: int,
) -> Cell:
    again = METHODS[method[0]].again
    kind, rate, build = CONDITIONS[condition]
    each = epochs / 2 if again else epochs  # equal compute
    return Cell(
        name,
        {**method[1], "train.duration": f"{each:g} epochs"},
        Noise(kind, rate, run_seed),
        run_seed,
        build={"seed": build_seed, **build},
        again=again,
    )


def digest(value: Any) -> str:
    """Returns a hash of JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def search_space(methods: Iterable[str] = tuple(METHODS)) -> dict[str, Any]:
    """Returns what a choice depends on, as JSON; for some methods only."""
    return {
        "methods": {
            name: {"tried": METHODS[name].tried(), "again": METHODS[name].again} for name in methods
        },
        "conditions": {name: list(condition) for name, condition in CONDITIONS.items()},
        "choose": [list(pair) for pair in CHOOSE],
        "common": common(),
        "faster": [FASTER, RATE],
    }
