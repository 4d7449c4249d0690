"""Pages in an installed Chromium, driven by Playwright; tests are skipped if one of the two is missing."""

import contextlib

import pytest

from experiments import pictures
from experiments.pictures import PATIENCE


@contextlib.contextmanager
def chromium(*flags):
    """Yields a headless browser, with more flags of Chromium."""
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(pictures.chromium(*flags))
        except pictures.BrowserNotFoundError as error:
            pytest.skip(str(error))
        yield browser


@contextlib.contextmanager
def opened(browser, path, size=(1280, 900), scheme="light"):
    """Yields a page, which must load only itself and log nothing to the console.

    Args:
      browser: of chromium().
      path: a file; or the address of a site, whose pages may load each other.
      size: width and height of the window, pixels.
      scheme: light or dark.
    """
    address = path if isinstance(path, str) else path.as_uri()
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, accept_downloads=True
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    yield page
    assert not said, said
    loaded = {url for url in asked if not url.startswith(("data:", "blob:"))}
    if isinstance(path, str):
        assert all(url.startswith(address) for url in loaded), loaded
    else:
        assert loaded == {address}
    context.close()


def overflow(page):
    """Returns by how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def contrasts(page, selector):
    """Returns the contrast (WCAG 2) of text to its background for elements with text of their own."""
    return page.evaluate(_CONTRASTS, selector)


_CONTRASTS = """(selector) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const paint = (...colors) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => rgb
    .map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = {};
  for (const node of document.querySelectorAll(selector)) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility() || node.disabled) continue;
    const grounds = [];
    for (let at = node; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
    const style = getComputedStyle(node);
    const color = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [luminance(paint(...grounds)), luminance(paint(...grounds, color))];
    const name = `${node.tagName} ${node.textContent.trim().slice(0, 30)}`;
    found[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""
