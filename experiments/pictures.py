"""A picture of a page that rdfer_jax has written, the report of a run or an audit, for a text about it.

    python -m experiments.pictures --page=runs/demo/report.html --output=docs/images/report.png
    python -m experiments.pictures --page=runs/demo/report.html --at='#agreement' --output=agreement.png

Writes a PNG of what a window of --width by --height pixels shows. Needs the extra `browser`
(`pip install -e '.[browser]'`) and an installed Chromium, such as Debian's package `chromium`; Playwright's
own browsers are not used. The environment variable CHROMIUM names another program.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from absl import app, flags

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Without a sandbox, which needs rights that containers do not give; the pages are our own.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
#: Milliseconds until a page that does nothing is an error; generous, as machines may be busy.
PATIENCE = 120_000


class BrowserNotFoundError(RuntimeError):
    """Playwright or Chromium is missing; the message says what to install."""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yields a browser without a window, of Playwright.

    Raises:
      BrowserNotFoundError: one of the two is missing.
    """
    try:
        from playwright import sync_api
    except ModuleNotFoundError:
        raise BrowserNotFoundError(
            "playwright is not installed: pip install -e '.[browser]'"
        ) from None
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        raise BrowserNotFoundError("there is no Chromium: install it, or name it in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=list(FLAGS), timeout=PATIENCE
        )
        yield browser
        browser.close()


def picture(
    page: pathlib.Path, size: tuple[int, int], scheme: str = "light", at: str = ""
) -> bytes:
    """Returns what a window shows of a page, as PNG.

    Args:
      page: an HTML file.
      size: width and height of the window, in pixels.
      scheme: colours, light or dark.
      at: CSS selector of what is to be at the top of the window; the head of the page, if empty.

    Raises:
      BrowserNotFoundError: Playwright or Chromium is missing.
      FileNotFoundError: there is no such page.
      ValueError: nothing on the page matches `at`.
    """
    if not page.is_file():
        raise FileNotFoundError(f"{page}: there is no such page")
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
    """Writes the picture."""
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
    print(f"picture in {output}")


if __name__ == "__main__":
    flags.DEFINE_string("page", None, "HTML file.", required=True)
    flags.DEFINE_string("output", None, "PNG file to write.", required=True)
    flags.DEFINE_integer("width", 1200, "Of the window, in pixels.", lower_bound=1)
    flags.DEFINE_integer("height", 900, "Of the window, in pixels.", lower_bound=1)
    flags.DEFINE_enum("scheme", "light", ["light", "dark"], "Colours.")
    flags.DEFINE_string("at", "", "CSS selector of what is to be at the top, such as '#agreement'.")
    app.run(main)
