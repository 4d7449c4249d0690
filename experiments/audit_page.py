"""How fast is the page for checking labels with tens of thousands of clips, in a real browser?

    python -m experiments.audit_page --clips=40000 --strips=2000 --output=runs/audit_page

Writes a page of random clips as `rdfer audit` does, opens it in a headless Chromium, and measures until the
change is painted: from opening to the first clip, each filter, each letter of a search, and each key. The
last row is a key that does nothing: what the browser and the machine take by themselves. Prints a table and
writes audit_page.json. Needs the extra `browser` and an installed Chromium.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from absl import app, flags
from etils import epath

from benchmarks import harness
from experiments import pictures
from rdfer_jax import paths
from rdfer_jax.labels import page as page_lib

CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
#: Keys of the page, and what they do.
KEYS = {"j": "next clip", "a": "accept", "r": "keep", "2": "class 2", "u": "undo", "z": "nothing"}
#: Milliseconds until the browser has painted what follows from the next event.
_ARM = """() => { window.painted = new Promise(resolve => {
  const done = (event) => requestAnimationFrame(() =>
    requestAnimationFrame((now) => resolve(now - event.timeStamp)));
  for (const kind of ["keydown", "change"]) addEventListener(kind, done, {once: true, capture: true});
}) }"""


def clips(number: int, strips: int) -> list[dict[str, Any]]:
    """Returns random clips, a third of each kind; the first `strips` of them have film strips."""
    rng = np.random.default_rng(0)
    pictures = [
        cv2.imencode(
            ".jpg",
            np.clip(rng.normal(120, 30, (96, 768, 3)), 0, 255).astype(np.uint8),
            [cv2.IMWRITE_JPEG_QUALITY, 25],
        )[1].tobytes()
        for _ in range(50)
    ]
    kinds = tuple(page_lib.KINDS)
    return [
        {key: float(rng.random()) for key, _, _ in page_lib.SCORES}
        | {
            "clip_id": f"train/{i:06d}",
            "kind": kinds[i % 3],
            "label": CLASSES[i % 7],
            "suggested": CLASSES[(i + i % 3) % 7],
            "strip": pictures[i % 50] if i < strips else None,
        }
        for i in range(number)
    ]


def measure(path: epath.Path, repeats: int) -> dict[str, list[float]]:
    """Returns the milliseconds of each action on a page, by its name.

    Raises:
      pictures.BrowserNotFoundError: Playwright or Chromium is missing.
    """
    found: dict[str, list[float]] = {}
    with pictures.chromium() as browser:
        for _ in range(3):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(pictures.PATIENCE)
            start = time.perf_counter()
            page.goto(epath.Path(path).resolve().as_uri())
            page.wait_for_selector("article")
            page.evaluate("() => new Promise(resolve => requestAnimationFrame(resolve))")
            found.setdefault("open", []).append(1000 * (time.perf_counter() - start))

        def painted(name: str, act: Callable[[], Any]) -> None:
            page.evaluate(_ARM)
            act()
            found.setdefault(name, []).append(page.evaluate("() => window.painted"))

        for _ in range(repeats):
            painted("filter", functools.partial(page.uncheck, "[value=hard]"))
            painted("filter", functools.partial(page.check, "[value=hard]"))
        page.focus("[name=text]")
        for letter in ("1", "Backspace") * repeats:
            painted("search", functools.partial(page.keyboard.press, letter))
        page.evaluate("document.activeElement.blur()")
        for key, name in KEYS.items():
            for _ in range(repeats):
                painted(f"{key}: {name}", functools.partial(page.keyboard.press, key))
    return found


def table(found: dict[str, list[float]]) -> str:
    """Returns the medians and maxima as a Markdown table."""
    rows = [["action", "median, ms", "slowest, ms"]]
    rows += [[n, f"{statistics.median(t):.0f}", f"{max(t):.0f}"] for n, t in found.items()]
    return harness.table(rows)


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    options = flags.FLAGS
    output = epath.Path(options.output)
    path = page_lib.write(
        output / "audit.html", clips(options.clips, options.strips), CLASSES, "Random clips"
    )
    megabytes = path.stat().length / 1e6
    try:
        found = measure(path, options.repeats)
    except pictures.BrowserNotFoundError as error:
        sys.exit(f"error: {error}")
    print(
        f"{options.clips:,} clips, {options.strips:,} strips, {megabytes:.0f} MB\n\n{table(found)}"
    )
    report = {"clips": options.clips, "strips": options.strips, "megabytes": megabytes}
    report |= {"milliseconds": found, "commit": harness.commit()}
    (output / "audit_page.json").write_text(harness.to_json(report))


if __name__ == "__main__":
    flags.DEFINE_integer("clips", 40_000, "Clips on the page.", lower_bound=1)
    flags.DEFINE_integer("strips", 2_000, "Clips with a film strip.", lower_bound=0)
    flags.DEFINE_integer("repeats", 20, "Measurements of each action.", lower_bound=1)
    paths.DEFINE_path("output", "runs/audit_page", "Folder for the page and the results.")
    app.run(main)
