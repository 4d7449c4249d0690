"""Screenshots of pages: what they show, and the errors for missing pages and browsers."""

import cv2
import numpy as np
import pytest

from experiments import pictures

PAGE = """<!doctype html><title>x</title><style>
body { margin: 0; background: light-dark(#ff0000, #800000); color-scheme: light dark; }
div { height: 2000px; background: #00ff00; }
</style><p style="height: 500px; margin: 0"></p><div></div>"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "at", "color"),
    [("light", "", (255, 0, 0)), ("dark", "", (128, 0, 0)), ("light", "div", (0, 255, 0))],
)
def test_a_picture_shows_the_window(tmp_path, scheme, at, color):
    (tmp_path / "page.html").write_text(PAGE)
    try:
        png = pictures.picture(tmp_path / "page.html", (300, 200), scheme, at)
    except pictures.BrowserNotFoundError as error:
        pytest.skip(str(error))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), 1)[..., ::-1]
    assert image.shape == (200, 300, 3)
    np.testing.assert_array_equal(image, np.full_like(image, 1) * np.uint8(color))
    with pytest.raises(ValueError, match="nothing on the page matches '#gone'"):
        pictures.picture(tmp_path / "page.html", (300, 200), at="#gone")


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no such file"):
        pictures.picture(tmp_path / "gone.html", (300, 200))
    (tmp_path / "page.html").write_text(PAGE)
    monkeypatch.setattr(pictures, "NAMES", ())
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(pictures.BrowserNotFoundError, match="install"):
        pictures.picture(tmp_path / "page.html", (300, 200))
