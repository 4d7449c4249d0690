"""Takes a screenshot of an HTML page, such as the report of a run or an audit, for the documentation.

    python -m experiments.pictures --page=runs/demo/report.html --output=report.png
    python -m experiments.pictures --page=runs/demo/report.html --at='#agreement' --output=agreement.png

Writes a PNG of a window of --width by --height pixels, in seconds. Needs the extra `browser`
(`pip install -e '.[browser]'`) and an installed Chromium, such as Debian's package `chromium`; Playwright's
own browsers are not used. The environment variable CHROMIUM can name another program.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags

from rdfer_jax import paths

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: No sandbox, which needs rights that containers lack; the pages are our own.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
#: Timeout of a page in milliseconds; generous, for busy machines.
PATIENCE = 120_000


class BrowserNotFoundError(RuntimeError):
    """Playwright or Chromium is missing; the message says what to install."""


@contextlib.contextmanager
def chromium(*more: str) -> Iterator[Any]:
    """Yields a headless Playwright browser.

    Args:
      *more: flags of Chromium, besides FLAGS.

    Raises:
      BrowserNotFoundError: Playwright or Chromium is missing.
    """
    try:
        from playwright import sync_api
    except ModuleNotFoundError:
        raise BrowserNotFoundError(
            "playwright is not installed: pip install -e '.[browser]'"
        ) from None
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise BrowserNotFoundError(
            "Chromium was not found: install it, or set CHROMIUM to its path"
        )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*FLAGS, *more], timeout=PATIENCE
        )
        yield browser
        browser.close()


def picture(
    page: pathlib.Path, size: tuple[int, int], scheme: str = "light", at: str = ""
) -> bytes:
    """Returns a screenshot of a page as PNG.

    Args:
      page: an HTML file.
      size: width and height of the window, in pixels.
      scheme: color scheme, light or dark.
      at: CSS selector of the element at the top of the window; if empty, the top of the page.

    Raises:
      BrowserNotFoundError: Playwright or Chromium is missing.
      FileNotFoundError: the page does not exist.
      ValueError: nothing on the page matches `at`.
    """
    if not page.is_file():
        raise FileNotFoundError(f"{page}: no such file")
    with chromium() as browser:
        shown = browser.new_page(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        shown.set_default_timeout(PATIENCE)
        shown.goto(page.resolve().as_uri())
        if at:
            if not (found := shown.query_selector(at)):
                raise ValueError(f"{page}: nothing on the page matches {at!r}")
            found.evaluate("(node) => node.scrollIntoView()")
        png: bytes = shown.screenshot()
    return png


def main(argv: Sequence[str]) -> None:
    """Takes the screenshot."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    options = flags.FLAGS
    try:
        png = picture(
            pathlib.Path(options.page), (options.width, options.height), options.scheme, options.at
        )
    except (BrowserNotFoundError, FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    output = pathlib.Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(png)
    print(f"wrote {output}")


if __name__ == "__main__":
    paths.DEFINE_path("page", None, "HTML file.", required=True)
    paths.DEFINE_path("output", None, "PNG file to write.", required=True)
    flags.DEFINE_integer("width", 1200, "Size of the window, in pixels.", lower_bound=1)
    flags.DEFINE_integer("height", 900, "Size of the window, in pixels.", lower_bound=1)
    flags.DEFINE_enum("scheme", "light", ["light", "dark"], "Color scheme.")
    flags.DEFINE_string("at", "", "CSS selector of the element at the top, such as '#agreement'.")
    app.run(main)
