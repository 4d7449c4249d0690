"""Speed of prediction on long videos, and whether memory grows with their length.

    python -m benchmarks.predict --video=mine.mp4 [--workdir=runs/mine] [--set=predict.fps=5]

Makes films of 1 and 10 minutes, 1920 x 1080, by repeating the video. Predicts each in a process of its own,
with the command that users run. Profiles the shortest one, in CPU time, to find where it goes. Prints a
table and writes predict.json. Existing films are reused. Without --video it repeats a synthetic film;
without --workdir it uses an untrained network of --config, which takes as long as a trained one, or, with
--packaged, the network of the package. Needs Linux, since peak memory is read from /proc.
"""

import json
import math
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from benchmarks import harness
from data.synthetic_faces import film, labels
from rdfer_jax import paths, sharding
from rdfer_jax.config import Config
from rdfer_jax.faces import cut, detect, kept, tracks
from rdfer_jax.faces.blazeface import BlazeFace
from rdfer_jax.media.sources import VideoFile
from rdfer_jax.media.video import FALLBACK_FPS, VideoReader, VideoWriter
from rdfer_jax.predict import files, predictor
from rdfer_jax.training import run_dir
from rdfer_jax.training.checkpoint import Checkpoints
from rdfer_jax.training.setup import ModelSetup
from rdfer_jax.training.writers import bar

#: Height and width of the films.
SIZE = (1080, 1920)
#: Runs `python -m` with the arguments after the first, and writes to that file a profile of the CPU time of
#: its main thread.
PROFILER = """
import cProfile, runpy, sys, time
path, _, name, *sys.argv[1:] = sys.argv[1:]
profile = cProfile.Profile(time.thread_time)
try:
    profile.runcall(runpy.run_module, name, run_name="__main__", alter_sys=True)
finally:
    profile.dump_stats(path)
"""

#: The parts of a prediction -> the functions that do them, none of which calls another.
PARTS: dict[str, tuple[Any, ...]] = {
    "load the network": (predictor.Predictor.__init__,),
    "decode": (VideoReader._attempted,),
    "convert colors": (VideoReader._image,),
    "detect faces": (BlazeFace.__call__, detect._Haar.__call__, detect._YuNet.__call__),
    "track them": (tracks.track,),
    "crop them": (cut.crop, kept.KeptCrops._around),
    "run the network": (predictor.Predictor._predict,),
    "write the files": (files.write,),
}


def write_film(source: VideoFile, path: epath.Path, seconds: float, size: tuple[int, int]) -> None:
    """Writes a film that repeats a video, one frame in memory at a time.

    Args:
      source: the video.
      path: an .mp4 file.
      seconds: length of the film.
      size: its height and width; the video is scaled to fit, with black bars if its shape is different.

    Raises:
      MediaError: the video cannot be read.
      OSError: the film cannot be written.
    """
    fps = _rate(source)
    frames = math.ceil(seconds * fps)
    images = zip(range(frames), _played(source), strict=False)
    with VideoWriter(path, fps, size) as writer:
        for _, image in bar(images, path.name, "frame", frames):
            writer.write(_fitted(image, size))


def _rate(source: VideoFile) -> float:
    times = [frame.time for frame in source.frames()]
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else FALLBACK_FPS


def _played(source: VideoFile) -> Iterator[np.ndarray]:
    while True:
        for frame in source.frames():
            yield frame.image


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales uint8 [h, w, 3] into the middle of uint8 [*size, 3]."""
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (round(side * scale) for side in image.shape[:2])
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, 3), np.uint8)
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height))
    return canvas


def write_untrained(config: Config, workdir: epath.Path) -> None:
    """Writes the settings, classes and checkpoint of an untrained network, unless they exist.

    Raises:
      ValueError: the folder holds a run with other settings.
    """
    run_dir.write_config(workdir, config)
    classes, num_train = labels.CLASSES, 1
    state = ModelSetup(config, sharding.make_mesh(), len(classes), num_train).new_state()
    run_dir.write_data(workdir, "none", classes, num_train)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(0, state, None)


def command(
    workdir: epath.Path | None, source: epath.Path, output: epath.Path, settings: Sequence[str]
) -> list[str]:
    """Returns the arguments of `python` that predict a film; settings are flags of --config."""
    places = [f"--workdir={workdir}"] if workdir else []
    places += [f"--input={source}", f"--output={output}"]
    return ["-m", "rdfer_jax.main", "--mode=predict", "--force", *places, *settings]


def measure(arguments: Sequence[str]) -> dict[str, float]:
    """Runs a process to its end.

    Returns:
      seconds of wall time, cpu_seconds of all threads, peak_bytes of memory.

    Raises:
      RuntimeError: it failed; the message holds its output.
    """
    start, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.05)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{log.read()}")
    used = ended[2]
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": peak}


def peak_memory(pid: int) -> int:
    """Returns the peak memory of a process so far, bytes; 0 if it has ended.

    This is the high-water mark of the kernel, which misses nothing between two calls. getrusage would
    count for a child at least what its parent held when it started.
    """
    for line in epath.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def predicted(output: epath.Path) -> dict[str, int]:
    """Returns the numbers of frames from the only prediction below a folder."""
    (path,) = output.glob("*/prediction.json")
    record = json.loads(path.read_text())
    return {name: record[name] for name in ("analyzed_frames", "frames_with_face")}


def parts(stats: pstats.Stats) -> dict[str, float]:
    """Returns the seconds in each of PARTS, and in everything else, of a profiled prediction."""
    rows: Mapping[tuple[str, int, str], tuple[Any, ...]] = stats.stats  # type: ignore[attr-defined]
    seconds = {
        name: sum(rows[key][3] for key in map(_key, functions) if key in rows)
        for name, functions in PARTS.items()
    }
    return seconds | {"the rest": stats.total_tt - sum(seconds.values())}  # type: ignore[attr-defined]


def _key(function: Any) -> tuple[str, int, str]:
    """Returns a function's key in a profile."""
    code = function.__code__
    return code.co_filename, code.co_firstlineno, code.co_name


def table(report: Mapping[str, Any]) -> str:
    """Returns a report as text."""
    films = report["films"]
    rows = {
        "film, seconds": [f"{f['film_seconds']:.0f}" for f in films],
        "frames analyzed": [str(f["analyzed_frames"]) for f in films],
        "of these with a face": [str(f["frames_with_face"]) for f in films],
        "seconds to predict it": [f"{f['seconds']:.1f}" for f in films],
        "CPU seconds": [f"{f['cpu_seconds']:.1f}" for f in films],
        "frames per second": [f"{f['analyzed_frames'] / f['seconds']:.1f}" for f in films],
        "times real time": [f"{f['film_seconds'] / f['seconds']:.2f}" for f in films],
        "peak memory, MiB": [f"{f['peak_bytes'] / 2**20:.0f}" for f in films],
        "peak memory / shortest": [
            f"{f['peak_bytes'] / films[0]['peak_bytes']:.2f}" for f in films
        ],
    }
    wide = max(map(len, rows))
    lines = [
        f"{name:<{wide}}" + "".join(f"{cell:>12}" for cell in row) for name, row in rows.items()
    ]
    total = sum(report["profile"].values())
    lines += ["", "CPU time of the shortest film, profiled"]
    for name, seconds in report["profile"].items():
        lines.append(f"{name:<{wide}}{seconds:>10.1f} s{seconds / total:>8.0%}")
    return "\n".join([f"{report['hardware']}, commit {report['commit']}", "", *lines])


def run(
    source: VideoFile,
    workdir: epath.Path | None,
    output: epath.Path,
    seconds: Sequence[float],
    settings: Sequence[str],
    size: tuple[int, int] = SIZE,
) -> dict[str, Any]:
    """Makes the films, predicts each, and profiles the shortest.

    Args:
      source: what the films play.
      workdir: folder of the run that predicts; None for the network of the package.
      output: folder for films and predictions.
      seconds: lengths of the films.
      settings: flags of --config for the command line.
      size: height and width of the films.

    Returns:
      The content of predict.json: a row for each film, shortest first; the seconds of CPU time in each part
      of the profile, and in other threads, which decode and run the network; hardware and commit.
    """
    films = []
    for length in sorted(seconds):
        path = output / f"{source.path.stem}-{size[0]}p-{length:g}s.mp4"
        if not path.exists():
            write_film(source, path, length, size)
        films.append(path)
    rows = []
    for path, length in zip(films, sorted(seconds), strict=True):
        place = output / f"predict-{path.stem}"
        measured = measure([sys.executable, *command(workdir, path, place, settings)])
        rows.append({"film_seconds": length} | measured | predicted(place))
    profile = output / "profile.out"
    place = output / f"predict-{films[0].stem}"
    profiler = (sys.executable, "-c", PROFILER, str(profile))
    profiled = measure([*profiler, *command(workdir, films[0], place, settings)])
    spent = parts(pstats.Stats(str(profile)))
    return {
        "films": rows,
        "profile": spent | {"other threads": profiled["cpu_seconds"] - sum(spent.values())},
        "hardware": harness.hardware(),
        "commit": harness.commit(),
    }


def main(_: Sequence[str]) -> None:
    """Runs the benchmark, prints the table, writes predict.json."""
    options = flags.FLAGS
    absl_logging.set_verbosity(absl_logging.WARNING)  # libraries log warnings only
    output = epath.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    try:
        config = harness.load(options.config, harness.parse_settings(options.set))
        workdir = epath.Path(options.workdir or output / "untrained")
        if not options.workdir and not options.packaged:
            write_untrained(config, workdir)
        synthetic = output / "synthetic.mp4"
        if not options.video and not synthetic.exists():
            film.write(synthetic, [0, 1, 4], seconds=3, pause=1)
        settings = [] if options.packaged else [f"--config={options.config}"]
        settings += [f"--config.{text}" for text in options.set]
        source = VideoFile(epath.Path(options.video or synthetic))
        lengths = [60 * float(minutes) for minutes in options.minutes]
        height, width = map(int, options.size)
        network = None if options.packaged else workdir
        report = run(source, network, output, lengths, settings, (height, width))
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(table(report))
    (output / "predict.json").write_text(harness.to_json(report))
    print(f"report in {output / 'predict.json'}")


if __name__ == "__main__":
    paths.DEFINE_path("video", None, "Video that the films repeat; by default a synthetic one.")
    flags.DEFINE_list("minutes", "1,10", "Lengths of the films, minutes.")
    flags.DEFINE_list("size", [str(side) for side in SIZE], "Height and width of the films.")
    paths.DEFINE_path("workdir", None, "Folder of a run; by default that of an untrained network.")
    flags.DEFINE_bool("packaged", False, "Predict with the network of the package.")
    paths.DEFINE_path(
        "config",
        "configs/synthetic.py",
        "Configuration: how to read videos, and the untrained network.",
    )
    flags.DEFINE_multi_string("set", [], "Further settings, such as predict.fps=5.")
    paths.DEFINE_path("output", "runs/predict", "Folder for everything.")
    app.run(main)
