"""Settings written as text: durations and folds.

A duration is a number with a unit: "500 steps", "3 epochs", or "50 %" of the whole training run.
"""

import math
import re


def steps(duration: str, *, steps_per_epoch: int, total_steps: int | None = None) -> int:
    """Converts a duration to a whole number of training steps, rounded up.

    Args:
      duration: such as "500 steps", "2.5 epochs" or "50 %".
      steps_per_epoch: steps that see every training video once.
      total_steps: length of the run, for durations in percent.

    Raises:
      ValueError: `duration` is malformed, or a percentage while total_steps is None.
    """
    number, unit = _parse_duration(duration)
    if unit == "%" and total_steps is None:
        raise ValueError(f"expected steps or epochs, got {duration!r}, a share of the run")
    scale = {"steps": 1, "epochs": steps_per_epoch, "%": (total_steps or 0) / 100}[unit]
    return math.ceil(round(number * scale, 6))


def fold_splits(tested: str, count: int = 5) -> tuple[str, str]:
    """Returns the training splits (all other folds) and the test split of a cross-validation.

    Raises:
      ValueError: there is no such fold.
    """
    numbers = [str(fold) for fold in range(1, count + 1)]
    if tested not in numbers:
        raise ValueError(f"fold: expected one of {', '.join(numbers)}, got {tested!r}")
    return "+".join(f"fold{n}" for n in numbers if n != tested), f"fold{tested}"


def parse_fold(fold: str) -> tuple[int, int]:
    """Converts "i/k" to i and k.

    Raises:
      ValueError: `fold` is malformed, i is not in [1, k], or k is less than 2.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", fold)
    if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise ValueError(f"expected a fold such as 1/5 or 5/5, got {fold!r}")
    return int(match[1]), int(match[2])


def check_duration(path: str, text: str, *, positive: bool = False) -> None:
    """Raises a ValueError that names the setting if its duration is malformed, or zero."""
    try:
        number, _ = _parse_duration(text)
    except ValueError as error:
        raise ValueError(f"config.{path}: {error}") from None
    if positive and number <= 0:
        raise ValueError(f"config.{path}: expected a positive duration, got {text!r}")


def _parse_duration(text: str) -> tuple[float, str]:
    """Splits a duration into its number and its unit: "steps", "epochs" or "%"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(steps?|epochs?|%)\s*", str(text))
    if not match:
        raise ValueError(
            f"expected a duration such as '500 steps', '3 epochs' or '50 %', got {text!r}"
        )
    unit = match[2] if match[2] == "%" else match[2].rstrip("s") + "s"
    return float(match[1]), unit
