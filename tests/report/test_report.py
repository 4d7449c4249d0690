"""The report of a made-up run: every number computed independently; hostile names; a browser."""

import html
import importlib.metadata
import json
import re
import shutil
from html.parser import HTMLParser

import browsing
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from rdfer_jax import config as config_lib
from rdfer_jax import html as pages
from rdfer_jax import intervals
from rdfer_jax.config import Config
from rdfer_jax.report import charts, report
from rdfer_jax.training import run_dir

CLASSES = ("happy", "sad", "neutral", "angry", "fear")
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'<!--{{7*7}}"
DASH = "\N{EN DASH}"
N = 400


def predictions(classes=CLASSES, split="test", seed=0, clips=N):
    """Arrays as Predictions.save writes them; the last class has no clip."""
    rng = np.random.default_rng(seed)
    label = rng.integers(len(classes) - 1, size=clips)
    logits = rng.normal(size=(clips, len(classes))) + 2.0 * np.eye(len(classes))[label]
    return {
        "split": split,
        "classes": np.array(classes),
        "clip_id": np.array([f"{split}-{i:03d}" for i in range(clips)]),
        "label": label,
        "logits": logits.astype(np.float32),
        "agreement": rng.beta(6, 1, size=clips).astype(np.float32),
        "noise_score": rng.uniform(size=clips).astype(np.float32),
    }


def results(arrays, **more):
    """What results.json holds of predictions."""
    label, best = arrays["label"], arrays["logits"].argmax(1)
    names = range(len(arrays["classes"]))
    return {
        "checkpoint": "last",
        "step": 1240,
        "split": arrays["split"],
        "confusion_matrix": reference.confusion_matrix(label, best, labels=names).tolist(),
        "num_examples": len(label),
    } | more


def rows():
    """Lines of metrics.jsonl; one loss was not finite."""
    for step in range(100, 1300, 100):
        loss = None if step == 500 else 200 / step
        yield {"step": step, "time": 0.0, "loss": loss, "accuracy": step / 1500, "clean": 1.0}
        yield {"step": step, "time": 0.0, "learning_rate": 1e-4 * (1 - step / 1300)}
    yield {"step": 1200, "time": 0.0, "test_war": 0.5, "test_uar": 0.4}


def write_run(folder, test=None, train=None, config=None, **more):
    """A run as training and evaluation leave it."""
    folder.mkdir(parents=True)
    test = test or predictions()
    np.savez(folder / "predictions.npz", **test)
    if train is not None:
        np.savez(folder / "predictions_train.npz", **train)
    config = config or config_lib.to_dict(Config())
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps(results(test, **more)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return folder


def mean_recall(label, best):
    return reference.recall_score(label, best, labels=np.unique(label), average="macro")


def text_of(page):
    """The page as its reader sees it, in one line."""
    text = re.sub(r"(?s)<(style|title|desc)\b.*?</\1>", " ", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def written(folder):
    return report.write(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run1")


@pytest.fixture(scope="module")
def chromium():
    with browsing.chromium() as browser:
        yield browser


def test_war_and_uar_with_their_intervals(run):
    page, arrays = written(run), predictions()
    label, best = arrays["label"], arrays["logits"].argmax(1)
    war, uar = reference.accuracy_score(label, best), mean_recall(label, best)
    assert re.search(r'data-value="war">([^<]+)', page)[1] == f"{war:.1%}"
    assert re.search(r'data-value="uar">([^<]+)', page)[1] == f"{uar:.1%}"
    limits = stats.binomtest(int((label == best).sum()), N).proportion_ci(method="wilson")
    assert f"95% interval {limits.low:.1%} to {limits.high:.1%}" in text_of(page)
    # UAR: clips resampled one by one.
    rng = np.random.default_rng(1)
    samples = [rng.integers(N, size=N) for _ in range(2000)]
    uars = [mean_recall(label[i], best[i]) for i in samples]
    shown = re.findall(r"95% interval ([\d.]+)% to ([\d.]+)%", text_of(page))[1]
    assert [float(v) / 100 for v in shown] == pytest.approx(
        np.quantile(uars, [0.025, 0.975]), abs=0.006
    )
    assert "KL(votes" not in text_of(page)
    for fact in ("Clips 400", "Checkpoint last", "Training step 1,240", "Split test"):
        assert fact in text_of(page)


def test_the_divergence_from_the_votes(tmp_path):
    page = written(write_run(tmp_path / "voted", kl_votes=0.54321, clips_with_votes=1234))
    assert "KL(votes || prediction), nats, mean of 1,234 clips 0.543" in text_of(page)


def test_recalls_and_confusions(run):
    page, arrays = written(run), predictions()
    label, best = arrays["label"], arrays["logits"].argmax(1)
    counts = reference.confusion_matrix(label, best, labels=range(5))
    recalls = reference.recall_score(label, best, labels=range(5), average=None, zero_division=0)
    table = page.split('class="wide recall"')[1].split("</table>")[0]
    for name, recall, total in zip(CLASSES[:4], recalls, counts.sum(1), strict=False):
        row = text_of(table.split(f">{name}</span></th>")[1].split("</tr>")[0])
        assert row.split()[0] == f"{recall:.1%}"
        assert row.split()[-1] == str(total)
    assert "no clips of this class" in table.split(f">{CLASSES[4]}</span></th>")[1]
    table = page.split('<table class="matrix"')[1].split("</table>")[0]
    cells = re.findall(r'class="share">([^<]*)</span><span class="count">([^<]*)<', table)
    assert [int(count) for _, count in cells] == counts.ravel().tolist()
    shares = counts[:4] / counts[:4].sum(1, keepdims=True)
    assert [share for share, _ in cells[:20]] == [f"{share:.0%}" for share in shares.ravel()]
    assert {share for share, _ in cells[20:]} == {DASH}
    wrong = np.where(np.eye(5, dtype=bool), 0, counts)
    true, taken = np.unravel_index(wrong.argmax(), wrong.shape)
    most = f"{CLASSES[true]} predicted as {CLASSES[taken]} ({wrong.max()} clips"
    assert most in text_of(page)


def test_numbers_of_the_agreement(run):
    text, arrays = text_of(written(run)), predictions()
    correct = arrays["logits"].argmax(1) == arrays["label"]
    assert f"in {reference.roc_auc_score(correct, arrays['agreement']):.1%} of cases" in text
    logits = arrays["logits"].astype(np.float64)
    probability = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1)
    for name, score in (("highest probability", probability), ("agreement", arrays["agreement"])):
        wrong = ~correct[np.argsort(-score, kind="stable")]
        area = (np.cumsum(wrong) / np.arange(1, N + 1)).mean()
        assert f"{name}: area {area:.4f}" in text
    for name, group in (("right", correct), ("wrong", ~correct)):
        assert f"{name} predictions: {group.sum()} " in text
        assert f"median {np.median(arrays['agreement'][group]):.3f}" in text
    assert f"all clips: {correct.mean():.1%}" in text
    assert f"all clips: {1 - correct.mean():.1%}" in text


def test_most_certain_mistakes(run):
    table = written(run).split("Most certain mistakes</caption>")[1].split("</table>")[0]
    arrays = predictions()
    logits = arrays["logits"].astype(np.float64)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = [i for i in range(N) if logits[i].argmax() != arrays["label"][i]]
    surest = sorted(wrong, key=lambda i: -probs[i].max())[:10]
    assert re.findall(r'class="mono">([^<]+)', table) == [f"test-{i:03d}" for i in surest]
    assert f"{probs[surest[0]].max():.1%}" in table


def test_wrong_labels_where_they_are_known(tmp_path):
    train = predictions(split="train", seed=1) | {"is_flipped": np.arange(N) % 4 == 0}
    known = {
        "noise_split": "train",
        "noise_share": 0.25,
        "noise_auroc_agreement": 0.9123,
        "noise_auroc_loss": 0.8765,
        "noise_auroc_agreement_among_hard": None,
        "hard_auroc_agreement": 0.7777,
    }
    page = written(write_run(tmp_path / "run", train=train, **known))
    shown = dict(re.findall(r'data-value="([^"]+)">([^<]+)</td>', page))
    assert shown == {
        "noise_auroc_agreement": "91.2%",
        "noise_auroc_loss": "87.6%",
        "hard_auroc_agreement": "77.8%",
    }
    assert "wrong labels: 100 " in text_of(page) and "right labels: 300 " in text_of(page)
    nothing = {"noise_split": "train", "noise_share": 0.0, "noise_auroc_agreement": None}
    text = text_of(written(write_run(tmp_path / "none", **nothing)))
    assert "there are no two groups to compare" in text


def test_unknown_flips_and_settings(run):
    text = text_of(written(run))
    assert "It is unknown which labels of the training split are wrong" in text
    for setting in config_lib.to_dict(Config())["optim"]:
        assert f" {setting} " in text


def test_settings_say_what_differs_from_the_default(tmp_path):
    config = config_lib.to_dict(Config())
    config["optim"] = config["optim"] | {"learning_rate": 0.125}
    config["build"] = {"seed": 3}
    text = text_of(written(write_run(tmp_path / "run", config=config)))
    assert f"learning_rate 0.125 default {Config().optim.learning_rate}" in text
    # What the run's own seed means is not said of the builder's.
    assert text.count("random seed of the run") == 1


def test_versions_are_those_of_the_run(tmp_path):
    folder = write_run(tmp_path / "run")
    run_dir.write_data(folder, "dfew/default/1.0.0", ("happy", "sad"), 10)
    known = json.loads((folder / "data.json").read_text())
    assert known["versions"]["jax"] == importlib.metadata.version("jax")
    known["versions"]["jax"] = "0.0.1"  # as of an older run
    (folder / "data.json").write_text(json.dumps(known))
    text = text_of(written(folder)).partition("Settings and versions")[2]
    assert " jax 0.0.1 " in text and f" numpy {importlib.metadata.version('numpy')} " in text


def test_the_best_checkpoint_and_the_truth_are_shown_where_they_are_known(tmp_path):
    best = {"checkpoint": "best", "step": 620, "war": 0.625, "uar": 0.5}
    known = {"war_easy": 0.75, "war_hard": None, "best_on_validation": best}
    text = text_of(written(write_run(tmp_path / "run", **known)))
    assert "step 620, reaches WAR 62.5% and UAR 50.0%" in text
    assert "WAR on easy clips 75.0%" in text
    assert f"WAR on hard clips {DASH}" in text


class Tags(HTMLParser):
    """Collects the elements of a page, and checks that they are closed in order."""

    VOID = ("meta", "link", "br", "img", "input")

    def __init__(self, page):
        super().__init__()
        self.found, self._open = [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_hostile_names_stay_text(tmp_path):
    classes = (*(HOSTILE + str(i) for i in range(4)), "</style>")
    test = predictions(classes)
    test["clip_id"] = np.array([HOSTILE + str(i) for i in range(N)])
    config = config_lib.to_dict(Config()) | {"build": {HOSTILE: HOSTILE}}
    train = predictions(classes, split=HOSTILE) | {"is_flipped": np.arange(N) % 2 == 0}
    folder = write_run(
        tmp_path / "<b>run", test, train, config, checkpoint=HOSTILE, noise_split=HOSTILE,
        noise_share=0.5, noise_auroc_agreement=0.5, noise_auroc_loss=0.5,
    )  # fmt: skip
    known = {"data_set": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    (folder / "data.json").write_text(json.dumps(known))
    page = written(folder)
    tags = Tags(page).found
    assert not {"img", "script", "b"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert "<!--" not in page
    for seen in (HOSTILE + "0", "<b>run", f"Checkpoint {HOSTILE}", f"Data set {HOSTILE}"):
        assert seen in text_of(page)


def test_one_file_that_loads_nothing(run):
    page = written(run)
    tags = Tags(page).found
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in tags}
    for _, attributes in tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "http" not in page.replace("http-equiv", "")
    assert not re.findall(r"url\((?!#)", page) and "@import" not in page  # only parts of the page
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = [a for tag, a in tags if tag == "svg" and a.get("class") == "chart"]
    assert len(pictures) >= 7
    for attributes in pictures:
        assert set(attributes["aria-labelledby"].split()) <= set(ids)


def test_another_output(run, tmp_path):
    output = tmp_path / "new" / "r.html"
    assert report.write(run, output) == output
    assert "WAR" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("config.json", "rdfer train"),
        ("metrics.jsonl", "rdfer train"),
        ("results.json", "rdfer eval"),
        ("predictions.npz", "rdfer eval"),
    ],
)
def test_a_missing_file_is_named_with_what_to_run(run, tmp_path, name, command):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=command) as raised:
        report.write(folder)
    assert str(folder / name) in str(raised.value)


def test_damaged_files_are_refused(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    arrays = predictions(seed=5)
    np.savez(folder / "predictions.npz", **arrays)
    with pytest.raises(
        ValueError, match=r"results\.json: not from the evaluation that wrote predictions.npz"
    ):
        report.write(folder)
    np.savez(folder / "predictions.npz", **arrays | {"clip_id": np.array([{}], object)})
    with pytest.raises(ValueError, match=r"predictions\.npz: cannot be read"):
        report.write(folder)
    arrays["agreement"] = arrays["agreement"] * np.nan
    np.savez(folder / "predictions.npz", **arrays)
    with pytest.raises(ValueError, match="agreement has values that are not finite"):
        report.write(folder)
    del arrays["agreement"]
    np.savez(folder / "predictions.npz", **arrays)
    with pytest.raises(ValueError, match="the array 'agreement' is missing"):
        report.write(folder)
    (folder / "predictions.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"predictions\.npz: cannot be read"):
        report.write(folder)
    (folder / "results.json").write_text("[1")
    with pytest.raises(ValueError, match=r"results\.json: not JSON"):
        report.write(folder)


@pytest.mark.parametrize("clips", [1, 3])
def test_few_clips_all_right(tmp_path, clips):
    arrays = predictions(clips=clips)
    arrays["label"] = arrays["logits"].argmax(1)
    arrays["agreement"] = np.ones(clips, np.float32)
    text = text_of(written(write_run(tmp_path / "run", arrays)))
    assert "WAR, weighted average recall 100.0%" in text
    assert "Most frequent:" not in text
    assert "nan" not in text


def test_wilson_is_that_of_scipy():
    for right, total in ((0, 10), (1, 1), (37, 80), (80, 80)):
        limits = stats.binomtest(right, total).proportion_ci(method="wilson")
        found = intervals.wilson(right, total)
        assert found == pytest.approx((right / total, limits.low, limits.high), abs=1e-9)
    assert np.isnan(intervals.wilson(0, 0)).all()


def test_interval_of_uar():
    one_sided = intervals.uar([[5, 0], [0, 5]])
    assert one_sided == (1, 1, 1)
    assert np.isnan(intervals.uar([[0, 0], [0, 0]])).all()
    wide, narrow = intervals.uar([[8, 2], [4, 6]]), intervals.uar([[800, 200], [400, 600]])
    assert wide.mean == pytest.approx(narrow.mean) == pytest.approx(0.7)
    assert wide.low < narrow.low < 0.7 < narrow.high < wide.high
    assert intervals.uar([[8, 2], [4, 6]]) == wide


def test_groups_of_equal_number():
    agreement, correct = np.linspace(0, 1, 25), np.arange(25) >= 10
    groups = charts.group_by_agreement(agreement[::-1], correct[::-1])
    assert [group.size for group in groups] == [3] * 5 + [2] * 5
    assert [group.accuracy.mean for group in groups] == pytest.approx([0, 0, 0, 2 / 3] + [1] * 6)
    assert (groups[0].low, groups[-1].high) == (0, 1)


def points(figure):
    """The points of each line of a figure's first axes, by label."""
    return {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}


def test_the_charts_show_the_numbers():
    rng = np.random.default_rng(0)
    agreement, correct = rng.uniform(size=400), rng.uniform(size=400) < 0.7
    groups = charts.group_by_agreement(agreement, correct)
    axes = charts._accuracy_figure(groups, 0.7).axes[0]
    np.testing.assert_allclose(
        axes.lines[0].get_xydata(), [(i + 1, g.accuracy.mean) for i, g in enumerate(groups)]
    )
    (bars,) = axes.collections  # from the lower to the upper limit of each group
    for (low, high), group in zip(bars.get_segments(), groups, strict=True):
        assert (low[1], high[1]) == pytest.approx((group.accuracy.low, group.accuracy.high))
    shown = points(
        charts._risk_figure(dict.fromkeys("abc", agreement), {c: c for c in "abc"}, correct)
    )
    wrong = ~correct[np.argsort(-agreement, kind="stable")]
    risk = np.cumsum(wrong) / np.arange(1, 401)
    for coverage, value in shown["a"]:
        assert value == pytest.approx(risk[round(400 * coverage) - 1])
    assert shown["a"][0, 0] == 0.02 and shown["a"][-1, 0] == 1
    assert shown["all clips: " + f"{1 - correct.mean():.1%}"][0, 1] == pytest.approx(wrong.mean())


def test_every_curve_lands_in_its_panel():
    names = ("loss", "accuracy", "test_war", "grad_norm", "validation_agreement", "noisy", "epoch")
    found = charts.curves([{"step": 1, "time": 0.0} | dict.fromkeys(names, 0.5)])
    assert set(found) == {"loss", "scores", "gradient", "kinds", "agreement"}
    assert {"training accuracy", "test WAR"} <= set(
        re.findall(r"<text[^>]*>([^<]*)</text>", found["scores"].svg)
    )
    assert "training accuracy from 0.5 to 0.5, test WAR from 0.5 to 0.5" in found["scores"].svg
    assert charts.curves([]) == {}


def test_embedded_json_cannot_end_its_script():
    value = {HOSTILE: ["\u2028", 1.5, None]}
    text = pages.embed(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        pages.embed(float("nan"))


# What only a browser can tell.


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with everything in it, names of which some are long."""
    classes = ("happy", "Anger and contempt, compound", "neutral", "x" * 60, "fear")
    train = predictions(classes, split="train", seed=1) | {"is_flipped": np.arange(N) % 4 == 0}
    known = {"noise_split": "train", "noise_share": 0.25, "noise_auroc_agreement": 0.9}
    known |= {"noise_auroc_loss": 0.8, "war_easy": 0.9, "war_hard": 0.5}
    folder = tmp_path_factory.mktemp("full") / ("a-long-name-with-no-place-to-break_" * 3)
    return report.write(write_run(folder, predictions(classes), train, **known))


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_fits_the_window_and_can_be_read(chromium, full, size, scheme):
    with browsing.opened(chromium, full, size, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        assert browsing.overflow(page) <= 0
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) > 600) == (scheme == "light")
        found = browsing.contrasts(page, "body *:not(title):not(desc)")
        assert len(found) > 100
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}


@pytest.mark.browser
def test_nothing_overlaps_or_leaves_its_chart(chromium, full):
    with browsing.opened(chromium, full) as page:
        assert page.evaluate(_OUTSIDE) == []
        assert page.evaluate(_OVERLAPPING) == []


_OUTSIDE = """() => [...document.querySelectorAll("svg.chart")].flatMap((chart) => {
  const whole = chart.getBoundingClientRect();
  return [...chart.querySelectorAll("text, use, path")].filter((node) => {
    if (node.closest("defs, clipPath")) return false;
    const box = node.getBoundingClientRect();
    return box.left < whole.left - 1 || box.top < whole.top - 1 ||
      box.right > whole.right + 1 || box.bottom > whole.bottom + 1;
  }).map((node) => `${chart.getAttribute("aria-labelledby")} ${node.outerHTML}`);
})"""

_OVERLAPPING = """() => [...document.querySelectorAll("svg.chart")].flatMap((chart) => {
  const texts = [...chart.querySelectorAll("text")].map(
    (node) => [node.textContent, node.getBoundingClientRect()]);
  const apart = (low, size, otherLow, otherSize) => low + size <= otherLow || otherLow + otherSize <= low;
  return texts.flatMap(([one, a], i) => texts.slice(i + 1).filter(([, b]) =>
    !apart(a.x, a.width, b.x, b.width) && !apart(a.y + 1, a.height - 2, b.y + 1, b.height - 2)
  ).map(([other]) => `${one} | ${other}`));
})"""
