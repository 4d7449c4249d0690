import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex

from rdfer_jax import plots


@pytest.mark.parametrize("num_classes", [2, 7, 43])
def test_confusion_matrix(num_classes):
    rng = np.random.default_rng(0)
    confusion = rng.integers(50, size=(num_classes, num_classes))
    confusion[1] = 0  # A class without clips.
    names = [f"expression {index}" for index in range(num_classes)]
    figure = plots.confusion_matrix_figure(confusion, names, "test")
    image = plots.to_rgb(figure)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    # Each cell has room for two lines of small text.
    assert min(image.shape[:2]) > 45 * num_classes
    shown = [text.get_text() for text in figure.axes[0].texts]
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    assert shown == [
        f"{100 * share[cell]:.0f}%\n{confusion[cell]}"
        for cell in zip(*confusion.nonzero(), strict=True)
    ]
    assert figure.axes[0].get_yticklabels()[1].get_text() == "expression 1 (no clips)"


def test_save_creates_the_folder(tmp_path):
    path = tmp_path / "new" / "chart.png"
    plots.save(plots.training_curves([]), path)
    expected = plots.to_rgb(plots.training_curves([]))
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], expected)


def test_confusion_matrix_colors_the_share_of_the_row():
    names = ["a", "b"]
    pictures = [
        plots.to_png(plots.confusion_matrix_figure([[2, 0], [0, 2]], names)) for _ in range(2)
    ]
    assert pictures[0] == pictures[1]
    right = plots.to_rgb(plots.confusion_matrix_figure([[2, 0], [0, 2]], names)).astype(int)
    wrong = plots.to_rgb(plots.confusion_matrix_figure([[0, 2], [2, 0]], names)).astype(int)
    assert right.shape == wrong.shape
    # Above the text of the top left cell: dark blue when all is right, near white when not.
    height, width = right.shape[:2]
    probe = slice(height // 12, height // 8), slice(width // 4, width // 3)
    assert right[probe].mean() < 120 < 220 < wrong[probe].mean()


def test_training_curves_of_every_length():
    rows = [
        {"step": step, "time": 0.0, "loss": None if step == 30 else 1 / step, "clean": 1.0}
        for step in range(10, 600, 10)
    ]
    rows[3] |= {"test_war": 0.5, "test_uar": 0.25, "grad_norm": 3.0}
    for some in ([], rows[:1], rows):
        assert plots.to_rgb(plots.training_curves(some, "run")).size


def test_each_curve_lands_in_its_panel_with_its_numbers():
    names = "loss", "accuracy", "agreement", "noisy", "test_war", "test_uar", "test_agreement"
    rows = [
        {"step": step, "time": 0.0, "grad_norm": 1.0, "epoch": 2.0}
        | {name: None if step == 20 else (i + step) / 100 for i, name in enumerate(names)}
        for step in (10, 20, 30)
    ]
    by_title = {axes.get_title(loc="left"): axes for axes in plots.training_curves(rows).axes}
    expected = {
        "Loss": ["loss"],
        "Accuracy": ["training accuracy", "test WAR", "test UAR"],
        "Gradient norm": ["grad norm"],
        "Clean, hard and noisy videos": ["noisy"],
        "Agreement of the clips of a video": ["agreement", "test agreement"],
    }
    found = {title: [line.get_label() for line in axes.lines] for title, axes in by_title.items()}
    assert {title: lines for title, lines in found.items() if title} == expected
    lines = {line.get_label(): line for axes in by_title.values() for line in axes.lines}
    for i, name in enumerate(names):
        line = lines[plots.readable(name)]
        np.testing.assert_array_equal(line.get_xdata(), [10, 20, 30])
        np.testing.assert_allclose(line.get_ydata(), [(i + 10) / 100, np.nan, (i + 30) / 100])
        assert line.get_linestyle() == (
            "--" if name.startswith("test_") and name != "test" else "-"
        )
    assert lines["agreement"].get_color() == lines["test agreement"].get_color()


def test_agreement_histogram_shows_shares_and_medians_of_each_kind():
    rng = np.random.default_rng(0)
    agreement, hard = rng.uniform(size=50), rng.integers(2, size=50).astype(bool)
    flipped = rng.uniform(size=50) < 0.4
    figure = plots.agreement_histogram(agreement, flipped, hard, "run")
    kinds = (~flipped & ~hard, ~flipped & hard, flipped)
    for axes, part in zip(figure.axes, kinds, strict=True):
        heights = [bar.get_height() for bar in axes.patches]
        expected = np.histogram(agreement[part], np.linspace(0, 1, plots.BINS + 1))[0] / part.sum()
        np.testing.assert_allclose(heights, expected)
        assert axes.get_title(loc="left").endswith(f": {part.sum()}")
        assert axes.get_title(loc="right") == f"median {np.median(agreement[part]):.3f}"
    # A kind may be absent, and rounding may leave an agreement slightly outside of its limits.
    assert plots.to_rgb(plots.agreement_histogram(agreement, np.zeros(50), hard)).size
    plots.agreement_histogram([1.0000001, -1e-8], [0, 1], [0, 0])


def test_refuses():
    with pytest.raises(ValueError, match="2 class names"):
        plots.confusion_matrix_figure(np.eye(3), ["a", "b"])
    with pytest.raises(ValueError, match="one length"):
        plots.agreement_histogram([0.5], [0, 1], [0])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        plots.agreement_histogram([1.5], [0], [0])


HOSTILE = "</script><img src=x onerror=alert(1)>&\"'<!--$x_{$"


def histogram(name="x", seed=0):
    values = np.random.default_rng(seed).uniform(size=40)
    groups = {HOSTILE: (plots.BLUE, values < 0.5), "other": (plots.RED, values >= 0.5)}
    return plots.to_svg(plots.histograms(values, groups, HOSTILE), name, HOSTILE, f"what {HOSTILE}")


def test_equal_charts_give_equal_text():
    assert histogram() == histogram()
    assert histogram() != histogram(seed=1)


def test_svg_is_safe_and_can_be_read_aloud():
    root = ElementTree.fromstring(histogram())
    assert root.tag == "svg" and root.attrib["role"] == "img"
    title, desc = list(root)[:2]
    assert (title.tag, title.text) == ("title", HOSTILE)
    assert (desc.tag, desc.text) == ("desc", f"what {HOSTILE}")
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], desc.attrib["id"]]
    texts = [node.text for node in root.iter("text")]
    assert HOSTILE in texts and any(text.startswith(f"{HOSTILE}: ") for text in texts)
    tags = {node.tag for node in root.iter()}
    assert tags <= {
        "svg",
        "title",
        "desc",
        "g",
        "path",
        "text",
        "tspan",
        "use",
        "defs",
        "clipPath",
        "rect",
    }
    for node in root.iter():
        for key, value in node.attrib.items():
            assert not key.startswith("on")
            assert key != "href" or value.startswith("#")
    assert not re.findall(r"url\((?!#)|http", histogram())


def test_ids_are_unique_among_charts_and_nothing_refers_to_a_missing_one():
    pages = [ElementTree.fromstring(histogram(name)) for name in ("one", "two")]
    ids = [node.attrib["id"] for page in pages for node in page.iter() if "id" in node.attrib]
    assert len(ids) == len(set(ids))
    for page, name in zip(pages, ("one", "two"), strict=True):
        own = {node.attrib["id"] for node in page.iter() if "id" in node.attrib}
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', histogram(name))) <= own


def test_svg_takes_colors_and_font_from_the_page():
    svg = histogram()
    assert "var(--s1)" in svg and "var(--s2)" in svg and "var(--ink)" in svg
    assert not re.findall("#[0-9a-fA-F]{6}", svg) and "font-family" not in svg


def test_every_color_of_a_chart_is_one_of_the_page():
    from pathlib import Path

    style = (Path(plots.__file__).parent / "style.css").read_text()
    for color, name in plots._PAGE_COLORS.items():
        assert color == to_hex(color)  # as Matplotlib writes it
        assert style.count(f"  {name}: ") >= 2  # light and dark
