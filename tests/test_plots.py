import numpy as np
import pytest

from rdfer_jax import plots


@pytest.mark.parametrize("num_classes", [2, 7, 43])
def test_confusion_matrix(num_classes, tmp_path):
    rng = np.random.default_rng(0)
    confusion = rng.integers(50, size=(num_classes, num_classes))
    confusion[1] = 0  # A class without clips.
    names = [f"expression {index}" for index in range(num_classes)]
    png = plots.confusion_matrix_figure(confusion, names, "test")
    image = plots.to_rgb(png)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    # Each cell has room for two lines of small text.
    assert min(image.shape[:2]) > 45 * num_classes
    plots.save(png, tmp_path / "new" / "confusion.png")
    assert (tmp_path / "new" / "confusion.png").read_bytes() == png


def test_confusion_matrix_colours_the_share_of_the_row():
    names = ["a", "b"]
    pictures = [
        plots.confusion_matrix_figure(confusion, names) for confusion in ([[2, 0], [0, 2]],) * 2
    ]
    assert pictures[0] == pictures[1]
    right = plots.to_rgb(pictures[0]).astype(int)
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


def test_each_curve_lands_in_its_panel(monkeypatch):
    drawn = {}

    def record(axes, rows, name, color, line):
        drawn[name] = axes.get_subplotspec().rowspan.start, color, line

    monkeypatch.setattr(plots, "_draw_curve", record)
    names = "loss", "accuracy", "agreement", "noisy", "test_war", "test_uar", "test_agreement"
    rows = [{"step": 1, "time": 0.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 2.0}]
    plots.training_curves([row | dict.fromkeys(names, 0.5) for row in rows])
    panels = {name: panel for name, (panel, _, _) in drawn.items()}
    assert panels == dict(zip(names, (0, 1, 2, 2, 1, 1, 2), strict=True))
    assert {drawn[name][2] for name in names[:4]} == {"-"}
    assert {drawn[name][2] for name in names[4:]} == {"--"}
    assert drawn["agreement"][1] == drawn["test_agreement"][1]


def test_agreement_histogram_also_without_a_kind():
    rng = np.random.default_rng(0)
    agreement, hard = rng.uniform(size=50), rng.integers(2, size=50)
    assert plots.to_rgb(plots.agreement_histogram(agreement, np.zeros(50), hard, "run")).size
    # Rounding may leave an agreement a little outside of its limits.
    plots.agreement_histogram([1.0000001, -1e-8], [0, 1], [0, 0])


def test_refuses():
    with pytest.raises(ValueError, match="2 class names"):
        plots.confusion_matrix_figure(np.eye(3), ["a", "b"])
    with pytest.raises(ValueError, match="one length"):
        plots.agreement_histogram([0.5], [0, 1], [0])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        plots.agreement_histogram([1.5], [0], [0])
    with pytest.raises(ValueError, match="no picture"):
        plots.to_rgb(b"nothing")
