"""The table of a paper, from folders of runs, against a computation by scikit-learn and loops."""

import itertools
import json
import re

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath
from markdown_tables import numbers, tables
from sklearn import metrics as sk

from experiments import finished, statistics, table
from rdfer_jax import config as config_lib
from rdfer_jax.training import run_dir
from rdfer_jax.training.predictions import OUT_OF_FOLD, Predictions

CLASSES = ("happy", "contempt_&_x", "50%")
FOLDS, CLIPS, SEEDS = 2, 40, (3, 5)


def truth():
    """Labels and folds of the clips; fold 2 has no clip of the last class."""
    rng = np.random.default_rng(0)
    fold = np.repeat([1, 2], CLIPS // 2)
    return np.where(fold == 1, rng.integers(0, 3, CLIPS), rng.integers(0, 2, CLIPS)), fold


LABEL, FOLD = truth()


def predict(skill, seed):
    rng = np.random.default_rng([int(100 * skill), seed])
    return np.where(rng.random(CLIPS) < skill, LABEL, rng.integers(0, 3, CLIPS))


def write(folder, predicted, seed, part=None, *, checkpoint="last", label=LABEL, **data):
    """Writes a cross-validation, or the run of one fold, with the clips in a random order."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True)
    rows = np.random.default_rng(seed).permutation(CLIPS)
    if part:
        rows = rows[FOLD[rows] == part]
        data |= {"test_split": f"fold{part}", "train_split": f"fold{3 - part}"}
    config = config_lib.resolve({"seed": seed, "data": {"name": "dfew"} | data})
    run_dir.write_config(folder, config)
    run_dir.write_data(folder, "dfew/default/1.0.0", CLASSES, 10)
    arrays = {
        "clip_id": np.array([f"{i:05d}" for i in rows]),
        "label": label[rows],
        "logits": np.eye(3, dtype=np.float32)[predicted[rows]],
    }
    if part:
        Predictions(f"fold{part}", CLASSES, arrays).save(folder / "predictions.npz")
        run_dir.write_json(folder / "results.json", {"checkpoint": checkpoint})
    else:
        arrays["fold"] = FOLD[rows]
        Predictions(OUT_OF_FOLD, CLASSES, arrays).save(folder / "predictions.npz")
        run_dir.write_json(folder / "results.json", {"folds": {}, "last": {}})
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three methods: cross-validations, single folds, and one more seed than the others have."""
    tmp_path = tmp_path_factory.mktemp("runs")
    for seed in SEEDS:
        write(tmp_path / f"base_s{seed}", predict(0.4, seed), seed)
        for part in (1, 2):
            write(tmp_path / f"ours_s{seed}_f{part}", predict(0.8, seed), seed, part)
    for seed in (*SEEDS, 9):
        write(tmp_path / f"good_s{seed}", predict(0.9, seed), seed)
    return [f"ours={tmp_path}/ours_*", f"good_1={tmp_path}/good_s*", f"base={tmp_path}/base_s*"]


def compared(words):
    return finished.compare(finished.parse(words))


def scores(predicted, picked=None):
    """Recalls, WAR and UAR by scikit-learn: means over the folds; `picked` are the drawn clips."""
    picked = np.arange(CLIPS) if picked is None else picked
    rows = []
    for part in (1, 2):
        mine = picked[FOLD[picked] == part]
        y, p = LABEL[mine], predicted[mine]
        recall = [sk.recall_score(y == c, p == c) if (y == c).any() else np.nan for c in range(3)]
        rows.append([*recall, sk.accuracy_score(y, p), np.nanmean(recall)])
    return np.nanmean(rows, axis=0)


def test_the_scores_are_those_of_scikit_learn(runs):
    found = table.summary(compared(runs), "base", draws=200)
    for row, skill in zip(found["rows"], (0.8, 0.9, 0.4), strict=True):
        expected = np.mean([scores(predict(skill, seed)) for seed in SEEDS], axis=0)
        means = [row[name]["mean"] for name in (*CLASSES, "WAR", "UAR")]
        np.testing.assert_allclose(means, expected, atol=1e-12)
    assert [row["method"] for row in found["rows"]] == ["ours", "good_1", "base"]
    assert found["seeds"] == [3, 5] and found["folds"] == ["fold1", "fold2"]
    assert found["not used"] == {"good_1": [9]} and found["clips"] == CLIPS


def test_the_intervals_are_those_of_a_slow_bootstrap(runs):
    """Draws clips within folds, and seeds, in loops; both have 2,000 draws of their own."""
    found = table.summary(compared(runs), "base", draws=2000)
    rng = np.random.default_rng(1)
    right = {k: np.array([predict(k, s) == LABEL for s in SEEDS]) for k in (0.4, 0.8, 0.9)}
    members = [[np.flatnonzero((f == FOLD) & (c == LABEL)) for c in range(3)] for f in (1, 2)]
    drawn = []
    for _ in range(2000):
        seeds = rng.integers(2, size=2)
        weight = np.zeros(CLIPS)
        for part in (1, 2):
            rows = np.flatnonzero(part == FOLD)
            weight += np.bincount(rng.choice(rows, len(rows)), minlength=CLIPS)
        line = []
        for hits in right.values():
            hits = hits[seeds].mean(axis=0)
            war = np.mean([np.average(hits[f == FOLD], weights=weight[f == FOLD]) for f in (1, 2)])
            uar = np.mean([
                np.mean([np.average(hits[m], weights=weight[m]) for m in classes if weight[m].sum()])
                for classes in members
            ])  # fmt: skip
            line.append((war, uar))
        drawn.append(line)
    drawn = np.array(drawn)
    for name, column in (("WAR", 0), ("UAR", 1)):
        for row, place in zip(found["rows"], (1, 2, 0), strict=True):
            limits = np.quantile(drawn[:, place, column], [0.025, 0.975])
            np.testing.assert_allclose((row[name]["low"], row[name]["high"]), limits, atol=0.025)
        for row, place in zip(found["differences"], (1, 2), strict=True):
            gap = drawn[:, place, column] - drawn[:, 0, column]
            limits = np.quantile(gap, [0.025, 0.975])
            np.testing.assert_allclose((row[name]["low"], row[name]["high"]), limits, atol=0.03)
        p = sorted(row[name]["p"] for row in found["differences"])
        adjusted = sorted(row[name]["holm_p"] for row in found["differences"])
        assert adjusted == pytest.approx([min(2 * p[0], 1), max(min(2 * p[0], 1), p[1])])


def test_a_method_beside_itself_differs_by_exactly_nothing(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, predict(0.7, 3), 3)
    words = [f"a={tmp_path}/a", f"b={tmp_path}/b"]
    (row,) = table.summary(compared(words), "a", draws=300)["differences"]
    for name in ("WAR", "UAR"):
        assert (row[name]["mean"], row[name]["low"], row[name]["high"], row[name]["holm_p"]) == (
            0,
            0,
            0,
            1,
        )


def read_latex(text):
    """The tabulars of a LaTeX table as rows of cells; asserts that all is balanced and escaped."""
    text = re.sub(r"(?m)^%.*\n", "", text)
    assert text.isascii()
    depth = 0
    for token in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", text):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert not opened
    found = []
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        rows = [line.strip() for line in body.strip().splitlines() if "rule" not in line]
        assert all(row.endswith(r"\\") for row in rows)
        cells = [re.split(r"(?<!\\)&", row[:-2]) for row in rows]
        assert {len(row) for row in cells} == {len(columns)}
        for cell in itertools.chain.from_iterable(cells):
            assert not re.search(r"(?<!\\)[%_#^~$]", re.sub(r"\$[<>]\$", "", cell)), cell
        found.append([[re.sub(r"\\([&%_#$])", r"\1", c).strip() for c in row] for row in cells])
        assert body.count("toprule") == body.count("midrule") == body.count("bottomrule") == 1
    return found


def test_markdown_latex_and_json_of_the_command_say_the_same(runs, tmp_path, capsys):
    flags.FLAGS.mark_as_parsed()
    if "draws" not in flags.FLAGS:
        table.define_flags()
    with flagsaver.flagsaver(runs=runs, reference="base", draws=500, output=str(tmp_path / "out")):
        table.main([])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out/table.json").read_text())
    assert printed.rstrip() == (tmp_path / "out/table.md").read_text().rstrip()
    shown = tables("\n\n" + printed)
    head, rows = shown["", "method"]
    assert head == [*CLASSES, "WAR", "UAR"]
    for row in found["rows"]:
        cells = rows[row["method"]]
        assert numbers(cells[0])[0] == pytest.approx(100 * row["happy"]["mean"], abs=0.05)
        war = [100 * row["WAR"][key] for key in ("mean", "low", "high")]
        assert numbers(cells[3]) == pytest.approx(war, abs=0.05)
    head, rows = shown["", "minus base"]
    assert numbers(rows["ours"][0])[0] == pytest.approx(
        100 * found["differences"][0]["WAR"]["mean"], abs=0.05
    )
    assert rows["ours"][1] == "<0.001*" or float(rows["ours"][1].rstrip("*")) < 0.05

    latex = (tmp_path / "out/table.tex").read_text()
    one, two = read_latex(latex)
    lines = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    plain = [[cell.replace("$<$", "<") for cell in row] for row in (*one, *two)]
    assert plain == [line for line in lines if "---" not in line]
    for text in (found["caption"], latex):
        for words in ("2 folds", "40 clips", "seeds 3, 5", "last checkpoint", "temporal", "16 frames",
                      "500 bootstrap draws", "Holm", "seeds 9 of good"):  # fmt: skip
            assert words in text


def test_a_single_seed_says_what_its_interval_leaves_out(tmp_path):
    write(tmp_path / "a", predict(0.7, 3), 3, 1, fold="", labels="")
    found = table.summary(compared([f"a={tmp_path}/a"]), None, draws=100)
    assert "do not cover other trainings" in found["caption"] and "split fold1" in found["caption"]
    assert found["differences"] == [] and "minus" not in table.markdown(found)
    assert len(read_latex(table.latex(found))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, r"no seed that all methods have \(a: 3; b: 4\)"),
        ({"label": (LABEL + 1) % 3}, r"/b and .*/a differ in their test labels"),
        ({"part": 1}, r"/b and .*/a differ in their clips \(20 and 40\)"),
        ({"name": "mafw"}, r"differ in data \(a: dfew, b: mafw\)"),
    ],
)
def test_what_cannot_be_paired_is_refused(tmp_path, change, message):
    write(tmp_path / "a", predict(0.7, 3), 3)
    write(tmp_path / "b", predict(0.7, 3), **({"seed": 3} | change))
    with pytest.raises(finished.RunsError, match=message):
        compared([f"a={tmp_path}/a", f"b={tmp_path}/b"])


def test_slips_are_named(tmp_path):
    for name, checkpoint in (("last", "last"), ("best", "best"), ("again", "last")):
        write(tmp_path / name, predict(0.7, 3), 3, 1, checkpoint=checkpoint)
    one = f"a={tmp_path}/last"
    for words, message in (
        ([], "no runs: give --runs=METHOD=GLOB"),
        ([f"{tmp_path}/last"], "expected METHOD=GLOB"),
        ([f"a={tmp_path}/none*"], r"no folder matches .*none\*"),
        ([one, one], "is named twice"),
        ([f"a={tmp_path}"], "not a finished run, cross-validation or cell"),
        ([one, f"b={tmp_path}/best"], r"differ in checkpoint \(a: last, b: best\)"),
        ([one, f"a={tmp_path}/again"], r"have the same seed 3 and the same fold"),
    ):
        with pytest.raises(finished.RunsError, match=message):
            compared(words)
    with pytest.raises(finished.RunsError, match="--reference=c: choose from a"):
        table.summary(compared([one]), "c")


def test_all_special_characters_are_escaped():
    assert table.escape("a_b & 5% #1 $x {y} \\z ~ ^ <1>") == (
        r"a\_b \& 5\% \#1 \$x \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{} $<$1$>$"
    )
    assert statistics.DRAWS >= 1000
