"""Labels drawn from the annotators' votes, against a second implementation, written from the docs."""

import csv
import hashlib
import io
import itertools
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import raw_trees
import tiny

from data import workers
from data.dfew import dfew_dataset_builder as dfew
from data.mafw import mafw_dataset_builder as mafw
from rdfer_jax import cli, commands
from rdfer_jax.config import Data
from rdfer_jax.labels import inject, vote_noise
from rdfer_jax.pipeline import label_files, source

PAGE = Path(__file__).parents[2] / "docs/evidence/noise-benchmark.md"


def slow(clips, kind, rate, seed):
    """The rule of the page, clip by clip: {id: (label, y)} from {id: (y, votes)}."""
    known = []
    for name, (y, votes) in clips.items():
        w = {c: int(Decimal(v) * 1000 + Decimal("0.5")) for c, v in votes.items()}
        other = sum(w.values()) - w[y]
        d = hashlib.sha256(b"v1|" + str(seed).encode() + b"|" + name.encode()).hexdigest()
        j, k = int(d[:16], 16), int(d[16:32], 16)
        place, end = k * other // 2**64, 0
        for c in sorted(w, key=str.encode):
            if c != y:
                end += w[c]
                if place < end:
                    break
        known.append((name, y, c, (2 * j + 1) * w[y], (2**65 - 2 * j - 1) * other, j))

    def before(a, b):  # by the fractions [3] / [4], without making them
        left, right = a[3] * b[4], b[3] * a[4]
        return left < right or (left == right and (a[5], a[0].encode()) < (b[5], b[0].encode()))

    possible = [clip for clip in known if clip[4]]
    wanted = int(Decimal(rate or 0) * len(known) + Decimal("0.5"))
    result = {}
    for clip in known:
        rank = sum(before(other, clip) for other in possible)
        wrong = clip[4] and {
            "votes": rank < wanted, "random1": clip[3] <= clip[4], "worst": True,
        }[kind]  # fmt: skip
        result[clip[0]] = (clip[2] if wrong else clip[1], clip[1])
    return result


def file_of(labels):
    """The bytes of the file, by the page."""
    lines = ["clip_id,label,true_label,is_flipped"]
    lines += [f"{n},{new},{y},{int(new != y)}" for n, (new, y) in sorted(labels.items())]
    return "".join(line + "\n" for line in lines).encode()


def made_up(seed, count=60, names=("happy", "sad", "Fear", "ärger"), fractions=True):
    """Clips with unanimous, split, fractional and missing votes, and labels that nobody voted for."""
    rng = np.random.default_rng(seed)
    clips = {}
    for i in rng.permutation(count).tolist():
        votes = rng.multinomial(10, rng.dirichlet(np.full(len(names), 0.4))).astype(float)
        if i % 7 == 0:
            votes[:] = 0
        if fractions and i % 5 == 0:
            votes = votes + rng.integers(0, 16, len(names)) / 16 * (votes > 0)
        y = int(rng.integers(len(names)) if i % 6 == 0 else votes.argmax())
        clips[f"clip-{i}"] = (
            names[y],
            dict(zip(names, map(repr, votes.tolist()), strict=True)),
        )
    return clips


def drawn(clips, kind, rate=None, seed=0, order=None):
    """The same by the package."""
    names = list(order or next(iter(clips.values()))[1])
    label_N = np.array([names.index(y) for y, _ in clips.values()])
    votes_NC = np.array([[float(votes[c]) for c in names] for _, votes in clips.values()])
    rate = None if rate is None else float(rate)
    found = vote_noise.draw(list(clips), names, label_N, votes_NC, kind, rate, seed)
    return {
        clip: (names[new], clips[clip][0])
        for clip, new in zip(clips, found.label.tolist(), strict=True)
    }


@pytest.mark.parametrize("seed", [0, 1, 20260101])
@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        *(("votes", rate) for rate in ("0", "0.1", "0.125", "0.29", "0.5")),
        ("random1", None), ("worst", None),
    ],
)  # fmt: skip
def test_the_labels_are_those_of_the_rule_on_the_page(kind, rate, seed):
    clips = made_up(seed)
    found = drawn(clips, kind, rate, seed)
    assert found == slow(clips, kind, rate, seed)
    if rate:
        assert sum(new != y for new, y in found.values()) == int(float(rate) * 60 + 0.5)


def test_the_vector_on_the_page():
    block = re.search(r"```\n(clip_id,.*?)```", PAGE.read_text(), re.DOTALL)[1]
    head, result = block.split("\n\n")
    clips = {
        row["clip_id"]: (row["label"], {c: row[c] for c in ("angry", "happy", "sad")})
        for row in csv.DictReader(io.StringIO(head))
    }
    content, _, digest = result.rstrip().rpartition("\n")
    for labels in (slow(clips, "votes", "0.5", 0), drawn(clips, "votes", "0.5")):
        assert file_of(labels).decode() == content + "\n"
    assert digest == f"sha256 {hashlib.sha256((content + chr(10)).encode()).hexdigest()}"


def test_the_order_of_clips_and_classes_changes_nothing():
    clips = made_up(3)
    turned = dict(sorted(clips.items(), reverse=True))
    for order in itertools.permutations(("happy", "sad", "Fear", "ärger")):
        assert drawn(turned, "votes", "0.3", order=order) == drawn(clips, "votes", "0.3")


def test_a_higher_rate_keeps_the_wrong_labels_and_worst_has_them_all():
    clips = made_up(4, 400)
    before = {}
    for kind, rate in (*(("votes", r) for r in (0.1, 0.2, 0.3, 0.4)), ("worst", None)):
        after = {c: new for c, (new, y) in drawn(clips, kind, rate).items() if new != y}
        assert before.items() <= after.items() and len(before) < len(after)
        before = after
    voted = {
        c for c, (y, votes) in clips.items() if any(float(v) for n, v in votes.items() if n != y)
    }
    assert set(before) == voted


def test_votes_for_other_classes_count_lambda_times():
    """6,000 clips with 6, 3 and 1 votes for a, b and c: how often each is drawn follows the formula."""
    count, votes = 6000, np.array([6, 3, 1])
    arguments = [str(i) for i in range(count)], ("a", "b", "c"), np.zeros(count, int)
    votes_NC = np.tile(votes, (count, 1))
    for kind, rate, wrong in (("votes", 0.7, 0.7), ("votes", 0.1, 0.1), ("random1", None, 0.4)):
        found = vote_noise.draw(*arguments, votes_NC, kind, rate)
        expected = np.array([1 - wrong, wrong * 3 / 4, wrong / 4])
        share = np.bincount(found.label, minlength=3) / count
        assert np.abs(share - expected).max() < 5 * np.sqrt(0.25 / count)
        lamb = wrong / (1 - wrong) * 6 / 4  # P(wrong) = 4 lambda / (6 + 4 lambda), solved
        assert found.weight == pytest.approx(lamb, rel=0.2)


def test_more_than_the_votes_allow_is_refused():
    votes = np.array([[9, 1], [10, 0], [0, 0], [5, 5]])
    arguments = ["a", "b", "c", "d"], ("x", "y"), np.zeros(4, int), votes
    assert (vote_noise.draw(*arguments, "votes", 0.5).label == [1, 0, 0, 1]).all()
    with pytest.raises(ValueError, match=r"rate 0.7: 3 of 4 labels cannot .* only 2 clips"):
        vote_noise.draw(*arguments, "votes", 0.7)
    for kind, rate, message in (
        ("votes", None, "rate None: kind 'votes' needs a share"),
        ("votes", 1.0, "rate 1.0"),
        ("votes", float("nan"), "rate nan"),
        ("worst", 0.3, "rate 0.3: kind 'worst' has no choice"),
        ("vote", 0.3, "kind 'vote': choose from votes, random1, worst"),
    ):
        with pytest.raises(ValueError, match=message):
            vote_noise.draw(*arguments, kind, rate)
    for bad in (-1, np.nan, np.inf, 1e7):
        with pytest.raises(ValueError, match="votes: expected numbers from 0 to 1000000"):
            vote_noise.units(np.array([[bad, 1.0]]))


def run(capsys, data, *words):
    """Runs `rdfer inject` in this process; returns what it printed."""
    call = cli.parse(
        ["inject", "--config=synthetic", f"--config.data.dir={data.dir}",
         f"--config.data.name={data.name}", *words]
    )  # fmt: skip
    commands.inject(call.flags)
    return capsys.readouterr().out


def test_the_command_writes_checks_and_refuses(tmp_path, capsys):
    """Records with the true label a class apart from the stored one; the votes count, not the label."""
    records = tiny.records()
    for i, record in enumerate(records["train"]):
        record["votes"] = np.array([[4, 3, 2], [0, 5, 5], [0, 0, 7], [0, 0, 0]][i % 4], np.float32)
    tiny.build(tmp_path, records)
    data, path = tiny.data(tmp_path), tmp_path / "new" / "n.csv"
    clips = {
        r["clip_id"]: (
            tiny.CLASSES[r["true_label"]],
            dict(zip(tiny.CLASSES, map(str, r["votes"]), strict=True)),
        )
        for r in records["train"]
    }
    printed = run(capsys, data, "--kind=votes", "--rate=0.3", f"--output={path}")
    expected = slow(clips, "votes", "0.3", 0)
    assert path.read_bytes() == file_of(expected)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"sha256 of the file: {digest}" in printed and "3 of 11 labels are wrong" in printed
    assert "2 have no votes and keep their label" in printed
    lines = "".join(
        f"{name},{y},{','.join(str(int(1000 * float(votes[c]))) for c in ('fear', 'happy', 'sad'))}\n"
        for name, (y, votes) in sorted(clips.items())
    )
    assert f"labels and votes: {hashlib.sha256(lines.encode()).hexdigest()}" in printed
    rows = printed.split("drawn label:\n")[1].splitlines()[1:4]
    for name, row in zip(tiny.CLASSES, rows, strict=True):
        pairs = [(new, y) for new, y in expected.values() if y == name]
        counts = [sum(new == c for new, _ in pairs) for c in tiny.CLASSES]
        assert row.split() == [name, *map(str, counts)]

    path.unlink()
    run(
        capsys, data, "--kind=votes", "--rate=0.3", f"--output={path}", f"--expect={digest.upper()}"
    )
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=rf"n.csv: expected sha256 {digest}, got .* votes, [0-9a-f]{{64}}:"
    ):
        run(capsys, data, "--kind=worst", f"--output={path}", f"--expect={digest}")
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="--expect needs --kind=votes"):
        run(capsys, data, "--rate=0.3", f"--output={path}", "--expect=0")
    with pytest.raises(ValueError, match="kind 'symmetric' needs --rate"):
        run(capsys, data, "--kind=symmetric", f"--output={path}")
    counts = inject.write_flips(data, "worst", None, 0, path)  # as the grids do
    worst = slow(clips, "worst", None, 0).values()
    assert sum(wrong for _, wrong in counts.values()) == sum(new != y for new, y in worst) == 8


def test_without_votes_there_is_an_error(tmp_path):
    records = tiny.records()
    for record in itertools.chain.from_iterable(records.values()):
        record["votes"] = np.zeros(3, np.float32)
    tiny.build(tmp_path, records)
    with pytest.raises(ValueError, match=r"split train: no clip has annotators' votes"):
        vote_noise.write(tiny.data(tmp_path), "random1", None, 0, tmp_path / "n.csv")
    assert not (tmp_path / "n.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "make", "rival"),
    [(dfew, raw_trees.make_dfew, (7, 3)), (mafw, raw_trees.make_mafw, (8, 3))],
    ids=["dfew", "mafw"],
)
def test_one_file_for_all_folds_of_generated_trees(tmp_path, monkeypatch, builder, make, rival):
    monkeypatch.setattr(workers, "_ITEMS_PER_WORKER", 10**9)
    truth = make(tmp_path / "raw", clips_per_class_per_fold=1, frames=1, size=16)
    raw_trees.build(builder, tmp_path, source_dir=str(tmp_path / "raw"), short_side=16)
    name = builder.__name__.split(".")[1]
    data = Data(dir=str(tmp_path), name=name, variant="small")
    path = tmp_path / "n.csv"
    made = vote_noise.write(data, "votes", 0.2, 0, path)
    split = source.open_split(source.find(data), "+".join(truth))
    classes = split.classes
    clips = {}
    for clip, label in (pair for fold in truth.values() for pair in fold.items()):
        next_ = classes[(classes.index(label) + 1) % 7] if name == "dfew" else "neutral"
        clips[clip] = (
            label,
            dict.fromkeys(classes, "0") | {next_: str(rival[1])} | {label: str(rival[0])},
        )
    assert path.read_bytes() == file_of(slow(clips, "votes", "0.2", 0))
    assert made.unvoted == made.outvoted == 0
    assert set(label_files.read(path, classes)) == set(clips)
    fold = Data(**(data.__dict__ | {"train_split": "fold2+fold3", "labels": str(path)}))
    trained = source.training_split(source.find(data), fold)
    assert len(trained) == sum(len(truth[f]) for f in ("fold2", "fold3"))
