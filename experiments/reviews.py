"""What do a person's decisions on some clips tell about the audit's list, and which clips tell most?

    python -m experiments.reviews --output=runs/reviews
    python -m experiments.reviews --cells='runs/real_faces/cells/people-agreement-s*' --output=runs/reviews

Reviews the list that promises 90 %: as `rdfer audit --reviewed` does, with a random sample, half of the
list and half of the others; and then in different orders further clips. The reviewer knows the true label.
With --cells, predictions of a run on data with known truth (FER+: the majority of the votes) take the place
of the simulation; see experiments.audit_runs for which. For cells of a grid, a third table has what the
class shares of the review gain in prediction. Needs no network and no data set. Writes reviews.json and
reviews.md.

Promise: what is listed after the review as `rdfer audit --reviewed --precision=0.9` does it (`audit`, see
labels.promise; the sample is from the list without a promise), or if the cut is set by a logistic
regression of the decisions on the score (`cut`); and how often the interval of the review covers the true
precision of the list that promised 90 % before. F1 of the list without a promise, before and after the
review tells its length, and of all clips for which another class is predicted.

Orders: the precision of the list is estimated by that regression from the random sample and as many further
decisions: at random on the list, in the order of suspicion, nearest to the cut, or where a decision lowers
the variance of the estimate most (greedily, by the Fisher information). Without a model: the mean of the
list's part of the random sample, also with further random clips of the list, or of strata of the list.

Class shares: WAR and UAR on the test split if prediction follows the class shares of a review, as with
config.predict.class_shares, minus those before.

Letters: N videos, R reviewed ones, or reviews, B test videos, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from etils import epath
from numpy.typing import NDArray
from scipy import special

from benchmarks import harness
from experiments import audit_grid, audit_runs, finished
from experiments.simulated import Simulated, simulate
from rdfer_jax import find_label_issues, paths
from rdfer_jax.labels import promise as promise_lib
from rdfer_jax.labels import review
from rdfer_jax.labels import share as share_lib
from rdfer_jax.labels.noise_matrix import Floats, Ints, fit_noise
from rdfer_jax.labels.suspicion import suspicion
from rdfer_jax.training.predictions import TEST_FILE, read_predictions

PROMISE = 0.9
#: Sizes of the random sample, and repetitions of each with other samples.
SIZES, REPEATS = (50, 100, 200), 50
#: For the orders: the random sample, further decisions, and repetitions.
FIRST, NEXT, ORDER_REPEATS = 100, 50, 20
#: Reviews of each size whose class shares are followed.
FOLLOWED = 30
#: Strata of the list.
STRATA = 5
#: Variance of the normal prior of the regression's two coefficients.
PRIOR = 25.0
#: The simulated data sets.
NOISES, RATES, NETWORKS = ("confusion", "mixed", "instance"), (0.1, 0.3), ("truth", "given")
#: Shares of all clips, from the most suspicious on, of which the precision is given.
TOPS = (0.01, 0.02, 0.05, 0.1)


class Listed(NamedTuple):
    """An audit before its review.

    Attributes:
      score: float64 [N], standardized; higher for labels that are more likely wrong.
      wrong: bool [N], the truth.
      listed: bool [N], the list with the promise.
      whole: bool [N], the list without one.
      candidate: bool [N], whether another class is suggested; no other clip is ever listed.
    """

    score: Floats
    wrong: np.ndarray
    listed: np.ndarray
    whole: np.ndarray
    candidate: np.ndarray

    @classmethod
    def of(cls, data: Simulated) -> "Listed":
        """Lists the labels of a data set as `rdfer audit --precision=0.9` does."""
        mean_NC = data.probs.mean(axis=1)
        found = suspicion(data.label, data.probs)
        share = share_lib.of_predictions(data.label, mean_NC, fit_noise(data.label, mean_NC).share)
        candidate_N = mean_NC.argmax(axis=1) != data.label
        listed_N = (found.false_alarms(share.sure) <= 1 - PROMISE + 1e-9) & candidate_N
        score_N = (found.score - found.score.mean()) / found.score.std()
        whole_N = most_suspicious(found.score, share.estimate) & candidate_N
        return cls(score_N, data.is_wrong, listed_N, whole_N, candidate_N)


def most_suspicious(score_N: Floats, share: float) -> np.ndarray:
    """Returns which clips are this share of all, bool [N], from the highest score on."""
    chosen_N = np.zeros(len(score_N), bool)
    chosen_N[np.argsort(-score_N, kind="stable")[: round(share * len(score_N))]] = True
    return chosen_N


def regression(score_R: Floats, wrong_R: np.ndarray) -> tuple[Floats, Floats]:
    """Returns the coefficients (constant, slope) of P(wrong) by the score, and their covariance.

    Logistic regression with the PRIOR around 0, at its highest posterior (Laplace).
    """
    x_R2 = np.stack([np.ones_like(score_R), score_R], axis=1)

    def loss(beta: Floats) -> float:
        logits_R = x_R2 @ beta
        likelihood = np.logaddexp(0, logits_R).sum() - logits_R[wrong_R].sum()
        return float(likelihood + beta @ beta / (2 * PRIOR))

    def information(p_R: Floats) -> Floats:
        return (x_R2 * (p_R * (1 - p_R))[:, None]).T @ x_R2 + np.eye(2) / PRIOR

    beta: Floats = np.zeros(2)
    before = np.inf
    for _ in range(100):  # Newton's method; the loss is convex
        p_R = special.expit(x_R2 @ beta)
        step = np.linalg.solve(information(p_R), x_R2.T @ (p_R - wrong_R) + beta / PRIOR)
        now = loss(beta)
        while loss(beta - step) > now:
            step = step / 2
        beta = beta - step
        if before - now < 1e-9:
            break
        before = now
    covariance = np.linalg.inv(information(special.expit(x_R2 @ beta)))
    return beta, np.asarray(covariance, np.float64)


def sample(listed_N: np.ndarray, size: int, rng: np.random.Generator) -> Ints:
    """Draws a random sample, half of the list and half of the others, as labels.review.draw."""
    groups = [rng.permutation(np.flatnonzero(listed_N == value)) for value in (True, False)]
    some = min(len(groups[0]), size // 2)
    return np.concatenate([groups[0][:some], groups[1][: size - some]])


def promise(audit: Listed, size: int, rng: np.random.Generator) -> dict[str, float]:
    """Returns what a review of a random sample says, and how right the lists after it are."""
    chosen = sample(audit.listed, size, rng)
    parts = [audit.wrong[chosen[audit.listed[chosen] == value]] for value in (True, False)]
    found = [(int(part.sum()), len(part)) for part in parts]
    true = float(audit.wrong[audit.listed].mean())
    low, high = share_lib.limits(*found[0])
    kept_N = kept(audit, size, rng)
    by_share_N = by_share(audit, size, rng)
    beta, _ = regression(audit.score[chosen], audit.wrong[chosen])
    by_cut_N = cut(audit, beta)
    return {
        "precision": true,
        "reviewed": found[0][0] / found[0][1],
        "covered": float(low <= true <= high),
        "width": high - low,
        "f1 before": audit_grid.f1(audit.whole, audit.wrong),
        "f1 after": audit_grid.f1(by_share_N, audit.wrong),
        "f1 other class": audit_grid.f1(audit.candidate, audit.wrong),
        "audit listed": float(kept_N.mean()),
        "audit right": float((kept_N & audit.wrong).mean()),
        "cut listed": float(by_cut_N.mean()),
        "cut right": float((by_cut_N & audit.wrong).mean()),
    }


def kept(audit: Listed, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the list that a review of a sample promises, bool [N], as the audit finds it."""
    chosen = sample(audit.whole, size, rng)
    chosen = chosen[audit.whole[chosen]]
    by_rank = np.argsort(-audit.score, kind="stable")
    list_L = by_rank[audit.whole[by_rank]]
    decided = promise_lib.Decided(chosen, audit.wrong[chosen], len(list_L))
    listed_N = np.zeros(len(audit.score), bool)
    listed_N[list_L[: promise_lib.keep(list_L, decided, PROMISE).length]] = True
    listed_N[chosen[~audit.wrong[chosen]]] = False
    return listed_N


def by_share(audit: Listed, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the list without a promise, bool [N], as long as the share of wrong labels by a review."""
    chosen = sample(audit.whole, size, rng)
    parts = [audit.wrong[chosen[audit.whole[chosen] == value]] for value in (True, False)]
    counts = [int((audit.whole == value).sum()) for value in (True, False)]
    share = share_lib.of_strata(counts, [(int(part.sum()), len(part)) for part in parts])
    return most_suspicious(audit.score, share.estimate) & audit.candidate


def cut(audit: Listed, beta: Floats) -> np.ndarray:
    """Returns the longest list, by score, of which PROMISE are expected to be wrong, bool [N]."""
    p_N = special.expit(beta[0] + beta[1] * audit.score)
    order = np.flatnonzero(audit.candidate)
    order = order[np.argsort(-audit.score[order], kind="stable")]
    means = p_N[order].cumsum() / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(means >= PROMISE)
    listed_N = np.zeros(len(p_N), bool)
    listed_N[order[: kept[-1] + 1 if len(kept) else 0]] = True
    return listed_N


def by_variance(audit: Listed, first: Ints, left: Ints, count: int) -> Ints:
    """Returns clips whose decisions lower the variance of the list's estimated precision most, greedily."""
    beta, covariance = regression(audit.score[first], audit.wrong[first])
    x_N2 = np.stack([np.ones_like(audit.score), audit.score], axis=1)
    p_N = special.expit(x_N2 @ beta)
    weight_N = p_N * (1 - p_N)
    gradient = (weight_N[:, None] * x_N2)[audit.listed].mean(axis=0)
    chosen: list[int] = []
    free_N = np.zeros(len(p_N), bool)
    free_N[left] = True
    for _ in range(count):
        # Sherman and Morrison: one more decision at x with weight w.
        along_N2 = x_N2 @ covariance
        gain_N = weight_N * (along_N2 @ gradient) ** 2
        gain_N /= 1 + weight_N * (along_N2 * x_N2).sum(axis=1)
        best = int(np.where(free_N, gain_N, -1).argmax())
        chosen.append(best)
        free_N[best] = False
        step = covariance @ x_N2[best]
        covariance = covariance - weight_N[best] * np.outer(step, step) / (
            1 + weight_N[best] * x_N2[best] @ step
        )
    return np.array(chosen)


#: (audit, first, left, rng) -> the clips to review next, most telling first.
ORDERS: dict[str, Callable[[Listed, Ints, Ints, np.random.Generator], Ints]] = {
    "random, on the list": lambda a, _, left, rng: rng.permutation(left[a.listed[left]])[:NEXT],
    "suspicion": lambda a, _, left, __: left[np.argsort(-a.score[left], kind="stable")][:NEXT],
    "nearest to the cut": lambda a, _, left, __: left[
        np.argsort(np.abs(a.score[left] - a.score[a.listed].min()), kind="stable")
    ][:NEXT],
    "variance": lambda a, first, left, _: by_variance(a, first, left, NEXT),
}


def by_strata(audit: Listed, first: Ints, left: Ints, rng: np.random.Generator) -> float:
    """Estimates the list's precision from NEXT further clips, drawn at random in strata of the list.

    Five strata of equal size by score; draws in proportion to the standard deviation that the regression
    expects there (Neyman's allocation), at least one in each; the mean of the strata has no bias.
    """
    beta, _ = regression(audit.score[first], audit.wrong[first])
    listed = np.flatnonzero(audit.listed)
    parts = np.array_split(listed[np.argsort(audit.score[listed], kind="stable")], STRATA)
    p_N = special.expit(beta[0] + beta[1] * audit.score)
    deviation = np.array([np.sqrt(p_N[part].mean() * (1 - p_N[part].mean())) for part in parts])
    wanted = np.maximum(1, np.floor(NEXT * deviation / deviation.sum()).astype(int))
    means = []
    for part, count in zip(parts, wanted, strict=True):
        mine = np.intersect1d(part, first)  # of the random sample, so random in its stratum, too
        more = rng.permutation(np.intersect1d(part, left))[:count]
        means.append(audit.wrong[np.concatenate([mine, more])].mean())
    return float(np.average(means, weights=[len(part) for part in parts]))


def orders(audit: Listed, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Returns by order the error of the list's estimated precision, and of a new cut's true one."""
    first = sample(audit.listed, FIRST, rng)
    left = np.setdiff1d(np.arange(len(audit.score)), first)
    true = audit.wrong[audit.listed].mean()
    mine = audit.wrong[first[audit.listed[first]]]
    found = {"none: the sample's mean": {"error": float(mine.mean() - true), "found": 0.0}}
    for name, order in {"none": None, **ORDERS}.items():
        more = order(audit, first, left, rng) if order else np.zeros(0, int)
        seen = np.concatenate([first, more]).astype(int)
        beta, _ = regression(audit.score[seen], audit.wrong[seen])
        p_N = special.expit(beta[0] + beta[1] * audit.score)
        listed_N = cut(audit, beta)
        found[name] = {
            "error": float(p_N[audit.listed].mean() - true),
            "found": float(audit.wrong[more].sum()),
            "listed": float(listed_N.mean()),
            "right": float((listed_N & audit.wrong).mean()),
        }
    on_list = np.concatenate(
        [mine, audit.wrong[ORDERS["random, on the list"](audit, first, left, rng)]]
    )
    found["random, on the list: mean"] = {"error": float(on_list.mean() - true), "found": 0.0}
    strata = by_strata(audit, first, left, rng)
    found["random, in strata of the list: mean"] = {"error": strata - float(true), "found": 0.0}
    return found


def summary(
    audits: Sequence[Listed], repeats: int = REPEATS, order_repeats: int = ORDER_REPEATS
) -> dict[str, Any]:
    """Returns the means over the audits and repetitions; those with fewer than 20 listed do not count."""
    kept = [audit for audit in audits if audit.listed.sum() >= 20]
    rng = np.random.default_rng(0)
    promises = {
        size: [promise(audit, size, rng) for audit in kept for _ in range(repeats)]
        for size in SIZES
    }
    ordered = [orders(audit, rng) for audit in kept for _ in range(order_repeats)]
    return {
        "audits": len(audits),
        "too short": len(audits) - len(kept),
        "tops": {
            top: float(np.mean([top_precision(audit, top) for audit in kept])) for top in TOPS
        },
        "promise": [{"size": n, **_promised(rows)} for n, rows in promises.items() if rows],
        "orders": [
            {
                "order": name,
                "rmse": float(np.sqrt(np.mean([row[name]["error"] ** 2 for row in ordered]))),
                "bias": float(np.mean([row[name]["error"] for row in ordered])),
                "found": float(np.mean([row[name]["found"] for row in ordered])),
                "cut off": _off([row[name] for row in ordered]),
            }
            for name in (ordered[0] if ordered else ())
        ],
    }


def top_precision(audit: Listed, share: float) -> float:
    """Returns how many of the most suspicious labels are wrong."""
    order = np.argsort(-audit.score, kind="stable")[: max(1, round(share * len(audit.score)))]
    return float(audit.wrong[order].mean())


def _off(rows: Sequence[Mapping[str, float]]) -> float | None:
    """Returns how far the true precision of the new cut is from PROMISE: the root mean square."""
    ratios = [row["right"] / row["listed"] for row in rows if row.get("listed")]
    return float(np.sqrt(np.mean((np.array(ratios) - PROMISE) ** 2))) if ratios else None


def _promised(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    for kind in ("audit", "cut"):
        listed = [row for row in rows if row[f"{kind} listed"]]
        ratios = np.array([row[f"{kind} right"] / row[f"{kind} listed"] for row in listed])
        figures: tuple[float, ...] = (float("nan"),) * 4
        if listed:
            figures = (
                float(ratios.mean()),
                *map(float, np.quantile(ratios, [0.025, 0.975])),
                float((ratios >= PROMISE - 0.03).mean()),
            )
        names = (f"{kind} {name}" for name in ("precision", "low", "high", "within 3"))
        mean |= dict(zip(names, figures, strict=True))
        mean[f"{kind} empty"] = 1 - len(listed) / len(rows)
    return mean


def text(found: Mapping[str, Any]) -> str:
    """Returns the tables as Markdown, in percent."""
    head = ["clips", "list: true precision", "reviewed", "covered", "width"]
    head += ["F1: before", "after", "other class"]
    lines = [
        [
            *head,
            *(
                f"{k}: {c}"
                for k in ("audit", "cut")
                for c in ("listed", "precision", "kept", "empty")
            ),
        ]
    ]
    for row in found["promise"]:
        cells = [str(row["size"])]
        cells += [f"{100 * row[c]:.1f}" for c in ("precision", "reviewed", "covered", "width")]
        cells += [f"{100 * row[f'f1 {c}']:.1f}" for c in ("before", "after", "other class")]
        for kind in ("audit", "cut"):
            low, high = row[f"{kind} low"], row[f"{kind} high"]
            cells += [
                f"{100 * row[f'{kind} listed']:.1f}",
                f"{100 * row[f'{kind} precision']:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                f"{100 * row[f'{kind} within 3']:.0f}",
                f"{100 * row[f'{kind} empty']:.0f}",
            ]
        lines.append(cells)
    orders_ = [["order", "root mean square error", "bias", "wrong labels found", "new cut, off by"]]
    for row in found["orders"]:
        off = "-" if row["cut off"] is None else f"{100 * row['cut off']:.1f}"
        cells = [f"{100 * row['rmse']:.1f}", f"{100 * row['bias']:+.1f}", f"{row['found']:.1f}"]
        orders_.append([row["order"], *cells, off])
    tops = ", ".join(
        f"{100 * v:.1f} of the first {float(top):.0%}" for top, v in found["tops"].items()
    )
    note = (
        f"{found['audits']} audits, {found['too short']} of them without 20 listed clips. "
        f"Wrong labels among the most suspicious: {tops}"
    )
    shares = [["clips", "class shares: WAR", "UAR", "WAR, lowest cell"]]
    for row in found.get("class shares", ()):
        cells = [f"{100 * row[c]:+.2f}" for c in ("war", "uar", "lowest war")]
        shares.append([str(row["size"]), *cells])
    tables = [lines, *(table for table in (orders_, shares) if len(table) > 1)]
    return "\n\n".join([note, *map(harness.table, tables)])


def followed(folder: epath.Path) -> dict[int, NDArray[np.bool_]]:
    """Returns whether a cell is right about its test videos if it follows the class shares of a review.

    As `rdfer audit --reviewed` and config.predict.class_shares do.

    Returns:
      By size of the review, bool [R, B], for FOLLOWED reviews of other random samples.
    """
    _, data = audit_runs.read(folder)
    test = read_predictions(folder / "run" / TEST_FILE, ("logits",))
    listed_N = find_label_issues(data.label, data.probs).kind == "mislabeled"
    logits_BC = np.asarray(test["logits"], np.float64)

    def counts(labels: Ints) -> NDArray[np.int_]:
        return np.bincount(labels, minlength=logits_BC.shape[1])

    def right(size: int, seed: int) -> NDArray[np.bool_]:
        drawn = review.draw(listed_N, size, seed)
        strata = [on for on in (True, False) if (listed_N[drawn] == on).any()]
        shares = review.shares_of_classes(
            counts(data.label),
            [int((listed_N == on).sum()) for on in strata],
            [counts(data.true[drawn[listed_N[drawn] == on]]) for on in strata],
        )
        best_B = (logits_BC + np.log(shares.estimate / shares.given)).argmax(axis=1)
        return np.asarray(best_B == test["label"])

    return {n: np.stack([right(n, seed) for seed in range(FOLLOWED)]) for n in SIZES}


def gains(folders: Sequence[epath.Path]) -> list[dict[str, float]]:
    """Returns by size of the review what following its class shares changes, over the cells.

    WAR and UAR minus those before, the means over cells and reviews, and the lowest mean of a cell in WAR.
    """
    changes: dict[int, list[Floats]] = {size: [] for size in SIZES}
    for folder in folders:
        test = read_predictions(folder / "run" / TEST_FILE, ("logits",))
        label_B = np.asarray(test["label"])
        before_B = np.asarray(test["logits"]).argmax(axis=1) == label_B
        for size, right_RB in followed(folder).items():
            change_B = right_RB.mean(axis=0) - before_B
            of_classes = [change_B[label_B == c].mean() for c in np.unique(label_B)]
            changes[size].append(np.array([change_B.mean(), np.mean(of_classes)]))
    return [
        {
            "size": size,
            "war": float(np.mean(rows, axis=0)[0]),
            "uar": float(np.mean(rows, axis=0)[1]),
            "lowest war": float(np.min(rows, axis=0)[0]),
        }
        for size, rows in changes.items()
    ]


def main(_: Sequence[str]) -> None:
    """Measures, and writes the tables."""
    options = flags.FLAGS
    output = epath.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    if options.cells:
        folders = [epath.Path(folder) for folder in finished.matching(options.cells)]
        audits = [Listed.of(audit_runs.read(folder)[1]) for folder in folders]
        cells = [folder for folder in folders if (folder / "run" / TEST_FILE).exists()]
    else:
        cells = []
        audits = [
            Listed.of(simulate(options.videos, noise, rate, network, seed))
            for noise in options.noises
            for rate in RATES
            for network in NETWORKS
            for seed in map(int, options.seeds)
        ]
    repeats = ORDER_REPEATS if options.orders else 0
    found = summary(audits, order_repeats=repeats) | {"class shares": gains(cells) if cells else []}
    (output / "reviews.json").write_text(harness.to_json(found))
    (output / "reviews.md").write_text(text(found) + "\n")
    print(text(found))


if __name__ == "__main__":
    paths.DEFINE_path(
        "cells", None, "Folders of cells of a grid, or of cross-validations, such as 'a/b-s*'."
    )
    flags.DEFINE_list("noises", list(NOISES), "Kinds of noise, see experiments.simulated.")
    flags.DEFINE_list("seeds", "0,1,2,3", "Seeds of the simulations.")
    flags.DEFINE_bool("orders", True, "Whether to measure which clips to review next.")
    flags.DEFINE_integer("videos", 4000, "Videos of a simulated data set.", lower_bound=100)
    paths.DEFINE_path("output", "runs/reviews", "Folder for the results.")
    app.run(main)
