"""rdfer predict: a folder of results for each of many videos."""

import logging
import tempfile
from collections.abc import Sequence

from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import paths, weights
from rdfer_jax.media import sources
from rdfer_jax.media.files import MediaError, printable
from rdfer_jax.media.sources import Video
from rdfer_jax.predict import annotate, files, resume
from rdfer_jax.predict.predictor import PACKAGED, Predictor
from rdfer_jax.predict.progress import Progress
from rdfer_jax.training import run_dir

log = logging.getLogger(__name__)


def predict(
    run: epath.PathLike | None,
    inputs: epath.PathLike,
    output: epath.PathLike | None = None,
    checkpoint: str = "last",
    settings: config_lib.Predict | None = None,
    *,
    force: bool = False,
    runtime: str = "auto",
) -> list[files.Row]:
    """Predicts videos, and writes a folder with prediction.json, frames.csv and timeline.png for each.

    Videos that cannot be read, or that show no face, are reported; the others are predicted. A video whose
    complete results are there is counted and not predicted again, if its files, the network and the
    settings are the same.

    Args:
      run: folder of the training run; None for the network that comes with the package.
      inputs: a video, a folder or a list; see sources.find.
      output: folder for everything; predict/ in the run's folder, or here without a run, if None.
      checkpoint: last, best, or a step.
      settings: how to read videos; those of the run, if None.
      force: whether to predict all videos again.
      runtime: of RUNTIMES; see Predictor.

    Returns:
      The rows of summary.csv: one for each predicted face, and for each video without one.

    Raises:
      MediaError: there is no video, or none that could be read.
      ValueError: another process is predicting into the same folder; or as of Predictor.
      OSError: the folder cannot be written to.
    """
    output = epath.Path(output) if output else epath.Path(run or ".") / "predict"
    videos = sources.find(inputs, output)
    folders = files.folders([video.name for video in videos])
    files.check_output(output, folders)
    if not run:
        log.info(
            "no --workdir: predicting with the network %r of this package, which was trained on "
            "photographs. What it can do, and what it must not be used for: %s",
            PACKAGED,
            weights.FOLDER / f"{PACKAGED}.md",
        )
    predictor = Predictor(run, checkpoint, settings, runtime)
    with run_dir.run_lock(output, "output"):
        try:
            rows = _predict_all(predictor, videos, folders, output, force)
        except OSError as error:
            raise OSError(
                f"{output}: results, or temporary files in {tempfile.gettempdir()}, cannot be written "
                f"({error.strerror or error}). What is predicted so far stays; the same command goes on"
            ) from None
    if not any("folder" in row for row in rows):
        raise MediaError(f"{inputs}: none of the {len(videos)} videos could be read")
    return rows


def _predict_all(
    predictor: Predictor,
    videos: Sequence[Video],
    folders: Sequence[str],
    output: epath.Path,
    force: bool,
) -> list[files.Row]:
    """Predicts videos, each into its folder in `output`; returns the rows of summary.csv."""
    rows: list[files.Row] = []
    made_by = predictor.made_by()
    predicted, failed, before = 0, 0, 0
    for number, (video, folder) in enumerate(zip(videos, folders, strict=True), 1):
        digest = resume.digest(video, made_by)
        if not force and (known := resume.finished(output / folder, digest)):
            rows += known
            before += 1
            continue
        resume.begin(output / folder)
        progress = Progress(output / folder, digest)
        if force:
            progress.discard()
            progress = Progress(output / folder, digest)
        if progress.frames:
            log.info("%s: the faces of %d frames are known already", video.name, progress.frames)
        try:
            with progress:
                prediction = predictor.video(video, progress)
        except Exception as error:  # one video must not cost the others
            if isinstance(error, OSError) and error.errno in paths.FULL:  # as for any other video
                raise
            progress.discard()
            if not isinstance(error, MediaError):
                log.debug("", exc_info=True)
            rows.append({"video": video.name, "problem": _told(video, error)})
            log.warning("not predicted: %s", rows[-1]["problem"])
            failed += 1
            continue
        if prediction.damage:
            log.warning("%s: %s", video.name, prediction.damage)
        files.write(prediction, output / folder)
        if predictor.settings.annotate and prediction.faces:
            annotate.write(video, prediction, output / folder / "annotated.mp4")
        found = files.summary(prediction, folder)
        rows += found
        resume.complete(output / folder, digest, found)
        progress.discard()
        predicted += bool(prediction.faces)
        which = f"{number} of {len(videos)}: " if len(videos) > 1 else ""
        picture = output / folder / "timeline.png"
        log.info("%s%s\n  %s", which, files.describe(prediction), picture)
    files.write_summary(rows, output / "summary.csv")
    again = f", {before} already predicted (--force predicts them again)" if before else ""
    log.info(
        "%d videos: %d predicted, %d without a face, %d not readable%s; results in %s",
        len(videos), predicted, len(videos) - predicted - failed - before, failed, again, output,
    )  # fmt: skip
    return rows


def _told(video: Video, error: Exception) -> str:
    """Returns an error as one line that names the video."""
    if isinstance(error, MediaError):
        return str(error)
    return printable(f"{video.name}: {type(error).__name__}: {error}")
