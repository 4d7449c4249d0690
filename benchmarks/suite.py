"""Runs several benchmarks, each as a process with a time limit, and collects their tables in one file.

What has finished is written at once, so that a suite that is cut short leaves what it measured.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags
from etils import epath

from benchmarks import harness
from rdfer_jax import paths

flags.disclaim_key_flags()  # --help lists a flag under the script that asks for it

#: Default time for all parts together; their own limits add up to at most that.
MINUTES = 10.0
#: Time limit of a part of a trial, in seconds, and of a whole trial.
TINY_SECONDS, TINY_LIMIT = 900, 3600
#: What a part prints is kept up to this number of characters, from the end.
KEPT = 20_000
_HARDWARE = "from benchmarks import harness; print(harness.hardware())"


class Part(NamedTuple):
    """One benchmark of a suite.

    Attributes:
      title: what it shows.
      module: in benchmarks.
      arguments: flags on the device; {output} is a folder for the part alone.
      tiny: flags of a trial that takes seconds on a CPU.
      seconds: time limit.
      environment: variables of the process.
    """

    title: str
    module: str
    arguments: Sequence[str]
    tiny: Sequence[str]
    seconds: float
    environment: Mapping[str, str] = {}


def run(
    parts: Sequence[Part], output: epath.Path, hardware: str, limit: float, tiny: bool
) -> list[dict[str, Any]]:
    """Runs the parts in their order, and writes all.json and all.md after each.

    Args:
      parts: what to run.
      output: folder for everything.
      hardware: in words.
      limit: seconds for all parts together; parts for which less than their time is left are cut short, and
        those for which none is left are left out.
      tiny: whether to run the trials.

    Returns:
      A row for each part: title, command, seconds, status ("done", "failed", "cut short", "left out") and
      text, its output.
    """
    output.mkdir(parents=True, exist_ok=True)
    end, rows = time.monotonic() + limit, []
    for number, part in enumerate(parts):
        folder = output / f"{number}_{part.module}"
        words = part.tiny if tiny else part.arguments
        words = [f"benchmarks.{part.module}", *(word.format(output=folder) for word in words)]
        seconds = min(TINY_SECONDS if tiny else part.seconds, end - time.monotonic())
        row = {"title": part.title, "command": " ".join(["python -m", *words])}
        row["command"] = " ".join([*map("=".join, part.environment.items()), row["command"]])
        print(f"{number + 1}/{len(parts)} {part.title}", file=sys.stderr, flush=True)
        rows.append(row | _run(words, part.environment, seconds))
        report = {"hardware": hardware, "commit": harness.commit(), "parts": rows}
        (output / "all.json").write_text(harness.to_json(report))
        (output / "all.md").write_text(text(report))
    return rows


def _run(words: Sequence[str], environment: Mapping[str, str], limit: float) -> dict[str, Any]:
    if limit <= 0:
        return {"seconds": 0.0, "status": "left out", "text": ""}
    start, status = time.monotonic(), "done"
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        printed, errors = process.communicate(timeout=limit)
        status = "failed" if process.returncode else "done"
    except subprocess.TimeoutExpired:
        status = "cut short"
        os.killpg(process.pid, signal.SIGKILL)  # and the processes that it has started
        printed, errors = process.communicate()
    if status != "done":
        printed += errors
    text = printed.decode(errors="replace").strip()[-KEPT:]
    return {"seconds": time.monotonic() - start, "status": status, "text": text}


def text(report: Mapping[str, Any]) -> str:
    """Returns a report as Markdown: a part under its title, with its command and what it printed."""
    blocks = [f"{report['hardware']}, commit {report['commit']}"]
    for row in report["parts"]:
        blocks += [
            f"## {row['title']}",
            f"`{row['command']}`: {row['status']} after {row['seconds']:.0f} s",
        ]
        is_table = row["status"] == "done"
        blocks.append(row["text"] if is_table else f"```\n{row['text']}\n```")
    return "\n\n".join(blocks) + "\n"


def main(platform: str, parts: Sequence[Part]) -> None:
    """Runs a suite from its flags; exits with status 1 if a part did not finish.

    Args:
      platform: "gpu" or "tpu".
      parts: of the suite.
    """
    options = flags.FLAGS
    output = epath.Path(options.output).absolute()
    if (output / "all.json").exists():
        sys.exit(f"error: {output} has results. Choose another --output")
    # In a process of its own: a device that this process holds would not be free for the parts.
    hardware = subprocess.run(
        [sys.executable, "-c", _HARDWARE], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    if not options.tiny and f" {platform} " not in hardware:
        sys.exit(f"error: expected a {platform.upper()}, JAX finds {hardware}; --tiny runs on it")
    limit = TINY_LIMIT if options.tiny else 60 * options.minutes
    rows = run(parts, output, hardware, limit, options.tiny)
    print((output / "all.md").read_text())
    if missing := [row["title"] for row in rows if row["status"] != "done"]:
        sys.exit(
            f"error: {len(missing)} of {len(rows)} parts did not finish: {json.dumps(missing)}"
        )


def start(platform: str, parts: Sequence[Part]) -> None:
    """Defines the flags and runs a suite; its module calls this."""
    paths.DEFINE_path("output", f"runs/all_{platform}", "Folder for everything.")
    flags.DEFINE_float("minutes", MINUTES, "Time for all parts together.", lower_bound=0)
    flags.DEFINE_boolean("tiny", False, "Only try that everything runs, in minutes on a CPU.")
    app.run(lambda _: main(platform, parts))
