"""Audits a data set: which labels are wrong, and which clips are merely hard?

Enters: the folder of a cross-validation with its out-of-fold predictions, and possibly a person's decisions
on the sample. Leaves: issues.csv, suggested.csv, sample.csv, audit.json and audit.html, a page to review
the clips, and class_shares.csv after a review. If the predictions are no better than the most frequent
class, nothing is suggested, and the page has the sample only, drawn from all clips alike. It reads saved
predictions and the frames of the data set; no model is run.

Letters: N videos, K clips of a video, C classes.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath
from scipy import special

from rdfer_jax import class_shares, metrics
from rdfer_jax.config import Config
from rdfer_jax.labels import issues, page, promise, review
from rdfer_jax.labels import share as share_lib
from rdfer_jax.labels.issues import Findings
from rdfer_jax.labels.skill import measure
from rdfer_jax.pipeline import sampling, source
from rdfer_jax.pipeline.decode import decode_frame
from rdfer_jax.training import run_dir
from rdfer_jax.training.predictions import (
    OUT_OF_FOLD,
    TEST_FILE,
    TRAIN_FILE,
    Predictions,
    read_predictions,
)

log = logging.getLogger(__name__)

#: Arrays of the saved predictions that an audit uses.
NEEDED = ("clip_id", "clip_logits", "votes")
#: Largest number of clips on the page, most suspicious first.
MAX_CARDS = 5000
#: Number of frames of a film strip, and their side in pixels.
STRIP_FRAMES, STRIP_SIDE = 8, 72
#: Files that need predictions better than the most frequent class.
_FINDINGS = ("issues.csv", "suggested.csv")
_SAMPLE, _CLASS_SHARES = "sample.csv", "class_shares.csv"
#: The largest share of the votes for one class, up to which annotators disagree.
SPLIT_VOTES = 2 / 3


def run(
    workdir: epath.PathLike,
    output: epath.PathLike | None = None,
    force: bool = False,
    precision: float | None = None,
    reviewed: epath.PathLike | None = None,
) -> dict[str, Any]:
    """Audits the labels of a data set with the predictions of a cross-validation.

    Args:
      workdir: folder of a cross-validation; with `force` also of a training run.
      output: folder for the files; by default audit/ in the workdir.
      force: fall back to the predictions that a training run made for its own training split. These say
        nothing about how many labels are wrong.
      precision: as in `issues.find_label_issues`.
      reviewed: a CSV file with decisions on the clips of sample.csv. Where they show of no list that it
        keeps the promise, and more of them could, sample.csv gets more clips.

    Returns:
      The contents of audit.json: the comparison with the most frequent class, see skill.Skill; the share
      of wrong labels, by the review, else by the annotators' votes, else by the predictions if they are
      better; the review; and if the predictions are better, also `issues.summary`, how hard clips compare
      with the votes, and, if the truth is known, the share that was found.

    Raises:
      FileNotFoundError: there are no predictions, or no sample or decisions for `reviewed`.
      ValueError: the predictions are damaged, or not out of fold and `force` is not given; or a bad
        argument or file of decisions.
    """
    workdir = epath.Path(workdir)
    output = epath.Path(output) if output else workdir / "audit"
    saved = _read(workdir, force)
    arrays, classes = saved.arrays, saved.classes
    info = run_dir.read(workdir)
    probs = special.softmax(arrays["clip_logits"].astype(np.float64), axis=-1)
    output.mkdir(parents=True, exist_ok=True)
    skill = measure(arrays["label"], probs.mean(axis=1).argmax(axis=-1))
    found: dict[str, Any] = {"predictions": saved.split, "better_than_majority": skill.proven}
    found |= {"comparison": skill.describe(classes[skill.majority])}
    in_fold = saved.split != OUT_OF_FOLD
    if in_fold and precision is not None:
        raise ValueError(
            "--precision needs out-of-fold predictions: those for a run's own training clips hide wrong "
            "labels that were learned, and no share can be promised. Run `rdfer crossval`, or leave it out"
        )
    clip_ids = arrays["clip_id"].tolist()
    decided = None
    if reviewed:
        decided = review.read(output / _SAMPLE, reviewed, clip_ids, arrays["label"], classes)
    share = decided.share if decided else share_lib.of_votes(arrays["label"], arrays["votes"])
    findings = issues.find_label_issues(
        arrays["label"], probs, precision=precision if skill.proven else None, share=share,
        decided=decided.decided if decided else None,
    )  # fmt: skip
    if skill.proven:
        found |= issues.summary(findings, classes) | _measured(findings, arrays)
        found["hard_by_votes"] = _hard_by_votes(findings, arrays["votes"])
        if in_fold and not share:
            found |= {"share": None, "list_precision": None, "noise_matrix": None}
        issues.write_issues(output / "issues.csv", clip_ids, findings, classes)
        decisions = decided.labels if decided else None
        issues.write_labels(output / "suggested.csv", clip_ids, findings, classes, decisions)
    else:
        findings = issues.unsuspicious(findings)
        found["share"] = share.to_dict() if share else None
        for name in _FINDINGS:
            (output / name).unlink(missing_ok=True)
    if decided:
        shares = output / _CLASS_SHARES
        found["review"] = decided.to_dict(classes) | {"class_shares": str(shares)}
        class_shares.write(shares, classes, decided.classes)
    sample = _sample(output / _SAMPLE, clip_ids, classes, findings, decided)
    _write_summary(output, found)
    doubtful = np.argsort(findings.rank)
    doubtful = doubtful[findings.kind[doubtful] != "fine"]
    shown = np.concatenate([doubtful[:MAX_CARDS], sample])
    shown = shown[np.sort(np.unique(shown, return_index=True)[1])]
    rows = list(_rows(info.config, arrays, findings, classes, shown, set(sample.tolist())))
    text = describe(found) + (decided.describe() if decided else "")
    text += _shown(len(doubtful)) if skill.proven else " This page shows the sample."
    title = f"{info.config.data.name}, {workdir.name}"
    page.write(output / "audit.html", rows, classes, title, text)
    return found


def _sample(
    path: epath.Path,
    clip_ids: Sequence[str],
    classes: Sequence[str],
    findings: Findings,
    decided: review.Review | None,
) -> np.ndarray:
    """Returns the sample to review, int [M]; draws and writes it, or more of it, where that is needed."""
    if decided:
        kept = findings.kept
        if not (kept and kept.more):
            return decided.sample
        listed = issues.candidates(findings)[: decided.decided.drawn_from]
        listed_N = np.isin(np.arange(len(clip_ids)), listed)
        sample = review.extend(decided.sample, listed, min(kept.more, review.SIZE))
    else:
        listed_N = findings.kind == "mislabeled"
        sample = review.draw(listed_N)
    names = np.array(classes)[findings.label].tolist()
    review.write_sample(path, clip_ids, names, listed_N, sample)
    return sample


def _write_summary(output: epath.Path, found: dict[str, Any]) -> None:
    (output / "audit.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")


def describe(found: dict[str, Any]) -> str:
    """Returns the result in one or two sentences."""
    if not found["better_than_majority"]:
        text = (
            "These networks are no better than always naming the most frequent class: "
            f"{found['comparison']}. So no labels are suggested; train longer, or on more clips."
        )
        if found["share"]:
            text += f" Without them, {found['share']['text']}."
        return text + _by_review(found.get("review"))
    share = "how many labels are wrong cannot be told: the network was trained on these clips"
    if found["share"]:
        share = found["share"]["text"]
    text = (
        f"{found['num_videos']} clips; {share}. "
        f"{found['mislabeled']} clips are likely mislabeled, {found['hard']} hard, {found['fine']} fine."
    )
    if found["kept"]:
        text += _kept(found["kept"], found["mislabeled"])
    elif found["list_precision"]:
        text += _promise(found["list_precision"], found.get("review") or {})
    if "precision_at_n" in found:
        text += (
            f" Of the {found['truly_mislabeled']} most suspicious clips, {found['precision_at_n']:.1%} are "
            "truly mislabeled"
        )
        if found.get("hard_are_hard") is not None:
            text += f"; of the clips called hard, {found['hard_are_hard']:.1%} are hard"
        text += "."
    return text + _by_review(found.get("review"))


def _by_review(found: Mapping[str, Any] | None) -> str:
    """Returns a sentence about classes that the labels give too often or too rarely, by a review."""
    if not found:
        return ""
    shares, path = found["classes"], found["class_shares"]
    apart = [
        f"{name} is {share['reviewed']:.0%} of the clips ({share['low']:.0%} to {share['high']:.0%}) and "
        f"{share['given']:.0%} of the labels"
        for name, share in shares.items()
        if not share["low"] <= share["given"] <= share["high"]
    ]
    if not apart:
        return ""
    return (
        f" By the review, {'; '.join(apart)}. With --config.predict.class_shares={path}, "
        "prediction follows the review."
    )


def _promise(promised: float, review: dict[str, Any]) -> str:
    """Returns a sentence about the precision of the list, which a review may contradict."""
    mean, low, high = review.get("precision") or (promised, promised, promised)
    if high < promised:
        return (
            f" {promised:.0%} of the mislabeled were expected to be wrong, but the review found {mean:.0%} "
            f"({low:.0%} to {high:.0%}): rely on the review."
        )
    return f" At least {promised:.0%} of the mislabeled are expected to be wrong."


def _kept(kept: Mapping[str, Any], listed: int) -> str:
    """Returns a sentence about a list that decisions promise; see promise.Kept."""
    sure = f"{promise.CONFIDENCE:.0%}"
    if kept["length"]:
        return (
            f" By the review, at least {kept['low']:.0%} of the {listed} mislabeled are wrong (limit at "
            f"{sure} confidence)."
        )
    text = f" The review shows of no list that it keeps the promise (at {sure} confidence)"
    if not kept["more"]:
        return f"{text}, and more decisions on the sample's list are not likely to."
    return f"{text}; about {kept['more']} more decisions could. The sample has clips for them."


def _shown(doubtful: int) -> str:
    """Returns a sentence about which clips the page shows."""
    if doubtful <= MAX_CARDS:
        return (
            " This page shows mislabeled and hard clips, and the sample; issues.csv has all clips."
        )
    return (
        f" This page shows the {MAX_CARDS} most suspicious clips, and the sample; issues.csv has all "
        "clips."
    )


def _read(workdir: epath.Path, force: bool) -> Predictions:
    """Reads the predictions to audit."""
    path = workdir / TEST_FILE
    if not workdir.is_dir():
        raise FileNotFoundError(
            f"{workdir}: no such folder; give the one that `rdfer crossval` wrote"
        )
    if path.exists():
        saved = read_predictions(path, NEEDED, "Run `rdfer crossval` or `rdfer eval` again")
        if saved.split == OUT_OF_FOLD:
            return saved
    if not force:
        raise ValueError(
            f"{workdir} holds no out-of-fold predictions. A network that has learned from a wrong "
            "label tends to agree with it, so its own training clips cannot be audited. Run "
            "`rdfer crossval` with this --workdir first, or accept this with --force"
        )
    path = workdir / TRAIN_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; only runs on data with known flipped labels write it. Run "
            "`rdfer crossval` first"
        )
    log.warning("%s: these clips were trained on; wrong labels that were learned stay hidden", path)
    return read_predictions(path, NEEDED, "Run `rdfer eval` again")


def _measured(findings: Findings, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns how well wrong labels and hard clips were found, if the truth is known."""
    if "is_flipped" not in arrays:
        return {}
    flipped_N = arrays["is_flipped"].astype(bool)
    total = int(flipped_N.sum())
    found: dict[str, Any] = {"truly_mislabeled": total}
    if total:
        found["precision_at_n"] = float(flipped_N[findings.rank < total].mean())
        suggested_N = findings.suggested == arrays["true_label"]
        found["suggested_right"] = float(suggested_N[flipped_N].mean())
    called_N = findings.kind == "hard"
    if "is_hard" in arrays and called_N.any():
        found["hard_are_hard"] = float(arrays["is_hard"][called_N].astype(bool).mean())
    return found


def _hard_by_votes(findings: Findings, votes_NC: np.ndarray) -> float | None:
    """How well ease tells the clips on which annotators disagree: AUROC; None without both kinds."""
    total_N = votes_NC.sum(axis=1)
    voted_N = total_N >= share_lib.VOTES
    split_N = (votes_NC.max(axis=1) <= SPLIT_VOTES * total_N)[voted_N]
    if not split_N.any() or split_N.all():
        return None
    return metrics.auroc(-findings.ease[voted_N], split_N)


def _rows(
    config: Config,
    arrays: dict[str, np.ndarray],
    findings: Findings,
    classes: Sequence[str],
    chosen: np.ndarray,
    sample: set[int],
) -> Iterator[dict[str, Any]]:
    """Yields the clips of the page, in the order of `chosen`."""
    frames_of = _frames_of(config)
    for i in chosen.tolist():
        clip_id = str(arrays["clip_id"][i])
        votes = {
            name: float(count)
            for name, count in zip(classes, arrays["votes"][i], strict=True)
            if count > 0
        }
        jpegs = frames_of(clip_id)
        keys = arrays["key_frames"][i].tolist() if "key_frames" in arrays else []
        yield {
            "clip_id": clip_id,
            "kind": str(findings.kind[i]),
            "why": str(findings.why[i]),
            "sample": i in sample,
            "label": classes[findings.label[i]],
            "suggested": classes[findings.suggested[i]],
            "votes": votes,
            "strip": strip(jpegs, keys) if jpegs else None,
        } | {score: float(getattr(findings, score)[i]) for score, _, _ in page.SCORES}


def _frames_of(config: Config) -> Callable[[str], Sequence[bytes] | None]:
    """Returns a function from a clip to its JPEG frames, or to None if the data set is missing."""
    try:
        directory = source.find(config.data)
        names = source.stored_folds(directory)
        split = source.open_split(directory, "+".join(names) or config.data.train_split)
    except (FileNotFoundError, ValueError) as error:
        log.warning("the page has no pictures: %s", error)
        return lambda clip_id: None
    places = {clip: i for i, clip in enumerate(split.columns("clip_id")["clip_id"].tolist())}
    return lambda clip_id: split[places[clip_id]]["frames"] if clip_id in places else None


def strip(jpegs: Sequence[bytes], keys: Sequence[int]) -> bytes:
    """Returns a JPEG of frames of a video side by side; key frames have a border.

    Args:
      jpegs: all frames.
      keys: indices of the key frames, which are shown in addition to evenly spaced frames.
    """
    shown = set(sampling.frame_indices(len(jpegs), STRIP_FRAMES).tolist()) | set(keys)
    pictures = []
    for number in sorted(shown):
        picture = decode_frame(jpegs[number], STRIP_SIDE, "crop")
        if number in keys:
            picture = cv2.rectangle(
                picture.copy(), (0, 0), (STRIP_SIDE - 1, STRIP_SIDE - 1), (255, 176, 0), 4
            )
        pictures.append(picture)
    done, jpeg = cv2.imencode(
        ".jpg", np.concatenate(pictures, axis=1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80]
    )
    assert done
    return jpeg.tobytes()
