"""The class shares of a review, and prediction with them in place of those of the given labels.

People who confuse expressions by a rule change how frequent the classes are, and a network learns these
shares with the labels. A random sample of decisions tells the true ones.

Enters: the shares in a review (labels/review.py). Leaves: class_shares.csv, and from it what is added to
the logits of a network.

Letter: C classes.
"""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from numpy.typing import NDArray

from rdfer_jax import paths
from rdfer_jax.config import Config

Floats = NDArray[np.float64]

_SETTING = "config.predict.class_shares"


class ClassShares(NamedTuple):
    """The share of each class, float64 [C] each.

    Attributes:
      given: among the given labels.
      reviewed: among the true labels, by the decisions alone.
      low: lower 95 % limit of `reviewed`.
      high: upper 95 % limit of `reviewed`.
      estimate: `reviewed`, drawn towards `given` as far as the sample cannot tell them apart.
    """

    given: Floats
    reviewed: Floats
    low: Floats
    high: Floats
    estimate: Floats


def shrunk(given_C: Floats, reviewed_C: Floats, effective: float) -> Floats:
    """Draws the reviewed shares towards the given ones, float64 [C].

    By the positive part of James and Stein (1961), "Estimation with quadratic loss", with the chi-squared
    statistic as the squared distance: the difference is multiplied by max(0, 1 - (C - 1) / chi^2), which is
    near 0 where the sample agrees with the given labels, and near 1 where it surely does not.

    Args:
      given_C: shares, all above 0.
      reviewed_C: shares.
      effective: size of the sample; with unequal weights w, (sum w)^2 / sum w^2 (Kish 1965).
    """
    difference_C = reviewed_C - given_C
    distance = effective * (difference_C**2 / given_C).sum()
    freedom = len(given_C) - 1
    return given_C + difference_C * (1 - freedom / distance if distance > freedom else 0.0)


def write(path: epath.PathLike, classes: Sequence[str], shares: ClassShares) -> None:
    """Writes a CSV file with the column class and those of ClassShares; the path may be gs://."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", *ClassShares._fields))
    for name, row in zip(classes, np.stack(shares, axis=1).tolist(), strict=True):
        writer.writerow((name, *(f"{value:.6f}" for value in row)))
    epath.Path(path).write_bytes(text.getvalue().encode())


def read(path: epath.PathLike, classes: Sequence[str], config: Config) -> Floats:
    """Returns log(estimate / given) of each class, float64 [C], of a file that `write` wrote.

    Added to the logits of a network, it gives the prediction for the estimated shares: Saerens et al.
    (2002), "Adjusting the outputs of a classifier to new a priori probabilities", equation 2.4.

    Args:
      path: the file, config.predict.class_shares.
      classes: of the network.
      config: of the run that trained it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a column is missing, a share is not positive, or the classes are others; or the run was
        trained for equally frequent classes.
    """
    if config.loss.logit_adjustment or config.data.sampling == "balanced":
        raise ValueError(
            f"{_SETTING} = {str(path)!r}: the run was trained with config.loss.logit_adjustment or "
            "config.data.sampling = balanced, so it predicts for equally frequent classes. Leave it empty"
        )
    path = epath.Path(paths.expand(path))
    if not path.exists() or path.is_dir():
        raise FileNotFoundError(
            f"{_SETTING} = {str(path)!r}: no such file. rdfer audit --reviewed=... writes class_shares.csv"
        )
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
        shares = {row["class"]: (float(row["given"]), float(row["estimate"])) for row in rows}
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path}: expected the columns class, given and estimate, as rdfer audit writes them"
        ) from None
    if set(shares) != set(classes):
        raise ValueError(
            f"{path}: expected a row for each of the classes {', '.join(classes)}, got "
            f"{', '.join(shares)}"
        )
    given_C, estimate_C = np.array([shares[name] for name in classes]).T
    if not ((given_C > 0) & (estimate_C > 0) & np.isfinite(given_C + estimate_C)).all():
        raise ValueError(f"{path}: expected shares above 0 in the columns given and estimate")
    return np.log(estimate_C / given_C)
