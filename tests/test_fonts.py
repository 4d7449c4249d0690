"""Names in any writing are drawn, or replaced in pictures and said once."""

import dataclasses
import logging
import warnings

import cv2
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from rdfer_jax import fonts, plots
from rdfer_jax.predict import annotate
from rdfer_jax.predict.result import Face, VideoPrediction, Window
from rdfer_jax.predict.timeline import timeline


@pytest.fixture(autouse=True)
def _only_fonts_of_matplotlib(monkeypatch):
    """As on a machine without fonts for Chinese."""
    manager = font_manager.FontManager.__new__(font_manager.FontManager)
    own = font_manager.fontManager.ttflist
    manager.__dict__ = font_manager.fontManager.__dict__ | {
        "ttflist": [entry for entry in own if "matplotlib" in entry.fname]
    }
    monkeypatch.setattr(font_manager, "fontManager", manager)
    caches = (fonts._entry, fonts._say)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def prediction(*classes):
    boxes = np.tile([60.0, 40, 60, 60], (9, 1))
    probs = np.tile(np.linspace(0.9, 0.1, len(classes)) / len(classes) * 2, (9, 1))
    window = Window(0.0, 0.8, probs[0], 1.0, (), ())
    face = Face(boxes, np.ones(9, bool), probs, (window,))
    model = {"run": "r", "checkpoint": "last", "step": 1}
    times = np.arange(9) / 10
    return VideoPrediction(
        "in/\u5047\u671f.mp4", (120, 160), classes, model, np.arange(9), times, (face,)
    )


def test_names_that_no_font_has_are_replaced_and_said_once(caplog):
    classes = ("happy", "\u9ad8\u5174", "fr\u00f6hlich", "\U0001f973")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert fonts.names(classes) == ["happy", "class 1", "fr\u00f6hlich", "class 3"]
    (record,) = caplog.records
    said = record.getMessage()
    assert "\u9ad8\u5174, \U0001f973; pictures show class 1, class 3" in said
    assert fonts.drawable("a\u5047b.mp4") == "a?b.mp4"


@pytest.mark.parametrize(
    "name",
    [
        "\u9ad8\u5174",
        "\u0441\u0447\u0430\u0441\u0442\u044c\u0435",
        "\U0001f973",
        "\u2639\ufe0f",
        "\u0645\u0631",
    ],
)
def test_pictures_have_no_empty_boxes(tmp_path, name):
    record = prediction(name, "sad")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib's way to say that it drew an empty box
        plots.save(timeline(record), tmp_path / "a.png")
        plots.save(
            plots.confusion_matrix_figure([[1, 2], [3, 4]], [name, "sad"], name), tmp_path / "b.png"
        )


def only_in_another_font():
    """A letter that Matplotlib's first font lacks and another one that comes with it has."""
    have = {
        family: set(FT2Font(font_manager.findfont(family)).get_charmap())
        for family in (fonts.BASE, "STIXGeneral")
    }
    letters = have["STIXGeneral"] - have[fonts.BASE]
    return next(chr(code) for code in sorted(letters) if chr(code).isalpha())


def test_another_installed_font_is_used_where_it_has_the_letters(tmp_path):
    letter = only_in_another_font()
    assert "STIX" in fonts.path_for(letter)
    assert fonts.names([letter, "sad"]) == [letter, "sad"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.save(timeline(prediction(letter, "sad")), tmp_path / "a.png")


def test_videos_show_letters_that_opencv_does_not_have():
    drawn = []
    for name in ("\u0441\u0447\u0430", "\u0436\u0443\u043a"):
        image = np.zeros((120, 160, 3), np.uint8)
        record = prediction(name, "sad")
        annotate.draw_face(image, record.faces[0], 4, fonts.names(record.classes))
        drawn.append(image)
    assert (drawn[0] != drawn[1]).any()  # OpenCV would write ??? for both
    assert all(image[:38].any() and not image[104:].any() for image in drawn)


@pytest.mark.parametrize("box", [(-20, -20, 30, 30), (150, 5, 30, 30), (0, 0, 160, 120)])
def test_text_stays_inside_of_the_frame(box):
    image = np.zeros((120, 160, 3), np.uint8)
    face = dataclasses.replace(prediction("happy", "sad").faces[0], boxes=np.tile(box, (9, 1)))
    annotate.draw_face(image, face, 4, ("happy", "sad"))
    frame = np.zeros_like(image)
    cv2.rectangle(frame, box[:2], (box[0] + box[2], box[1] + box[3]), (0xE6, 0x9F, 0), 1)
    text = (image != frame).any(axis=-1)
    columns = np.flatnonzero(text.any(axis=0))
    assert 30 < np.ptp(columns) < 120 and text.sum() > 100


def test_text_in_a_frame_smaller_than_it_is_no_error():
    image = np.zeros((4, 6, 3), np.uint8)
    face = dataclasses.replace(prediction("happy").faces[0], boxes=np.tile([1, 1, 3, 3], (9, 1)))
    annotate.draw_face(image, face, 4, ("happy",))
