"""VideoPrediction -> prediction.json, frames.csv, summary.csv, and lines for the terminal."""

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from etils import epath

from rdfer_jax import atomic, plots
from rdfer_jax.media.files import MediaError, spelling
from rdfer_jax.predict.result import VideoPrediction, status
from rdfer_jax.predict.timeline import timeline

#: Columns of summary.csv.
COLUMNS = (
    "video", "folder", "face", "expression", "probability", "agreement", "key_start", "key_end",
    "analyzed_frames", "frames_with_face", "faces", "problem", "damage",
)  # fmt: skip
#: Files of the results of each video.
RESULTS = ("prediction.json", "frames.csv", "timeline.png")
#: Bytes of the longest name of a folder; file systems allow 255, and numbers are added.
_LONGEST_NAME = 240
#: A line of summary.csv, by column.
Row = dict[str, Any]


def folders(names: Sequence[str]) -> list[str]:
    """Returns the name of a folder for each video: the video's own, with a number where names repeat.

    Names that differ by case or accents only repeat: they are one name on macOS and Windows.
    """
    result: list[str] = []
    taken, numbers = {"summary.csv"}, dict[str, int]()
    for name in names:
        stem = epath.Path(name).name.encode()[:_LONGEST_NAME].decode(errors="ignore")
        stem = "video" if stem in ("", ".", "..") else stem  # not the folder above
        folder, number = stem, numbers.get(spelling(stem), 2)
        while spelling(folder) in taken:
            folder, number = f"{stem}-{number}", number + 1
        numbers[spelling(stem)] = number
        taken.add(spelling(folder))
        result.append(folder)
    return result


def check_output(output: epath.Path, names: Sequence[str]) -> None:
    """Raises MediaError if the folder of the results, or one of the folders in it, is a file."""
    for path in (output, *(output / name for name in names)):
        if path.exists() and not path.is_dir():
            raise MediaError(
                f"{path}: the results need a folder of this name, but it is a file; choose another --output"
            )


def write(prediction: VideoPrediction, folder: epath.Path) -> None:
    """Writes prediction.json, frames.csv and timeline.png."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(prediction.to_json(), indent=1, allow_nan=False)
    atomic.write_bytes(folder / "prediction.json", f"{text}\n".encode())
    atomic.write_bytes(folder / "frames.csv", frames_csv(prediction).encode())
    atomic.write_bytes(folder / "timeline.png", plots.to_png(timeline(prediction)))


def frames_csv(prediction: VideoPrediction) -> str:
    """Returns a line for each analyzed frame and face; without a face, a line for each frame."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    boxes = ("left", "top", "width", "height")
    writer.writerow(["face", "frame", "time", "status", *boxes, *prediction.classes])
    for number, face in enumerate(prediction.faces or (None,), 1):
        frames = zip(prediction.numbers, prediction.times, strict=True)
        for place, (frame, time) in enumerate(frames):
            row: list[Any] = [number if face else "", frame, f"{time:.3f}"]
            if face is None:
                row += ["absent"] + [""] * (4 + len(prediction.classes))
            else:
                row += [status(face, place)]
                row += [_number(side, 1) for side in face.boxes[place]]
                row += [_number(p, 4) for p in face.timeline[place]]
            writer.writerow(row)
    return file.getvalue()


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def summary(prediction: VideoPrediction, folder: str) -> list[Row]:
    """Returns the rows of a video in summary.csv: one for each predicted face, or one that says why not."""
    video: Row = {
        "video": prediction.name,
        "folder": folder,
        "analyzed_frames": len(prediction.numbers),
        "frames_with_face": prediction.with_face,
        "faces": len(prediction.faces) + prediction.other_faces + prediction.faces_too_brief,
        "problem": prediction.problem,
        "damage": prediction.damage,
    }
    rows = []
    for number, face in enumerate(prediction.faces, 1):
        start, end = face.key_span(prediction.times)
        rows.append(
            video
            | {
                "face": number,
                "expression": prediction.expression(face.probs),
                "probability": round(float(face.probs[face.expression]), 4),
                "agreement": round(face.agreement, 4),
                "key_start": round(start, 3),
                "key_end": round(end, 3),
                "frames_with_face": int(face.present.sum()),
            }
        )
    return rows or [video]


def write_summary(rows: Sequence[Row], path: epath.Path) -> None:
    """Writes summary.csv, a line for each face, or for a video without one."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(path, file.getvalue().encode())


def describe(prediction: VideoPrediction) -> str:
    """Returns a prediction as one line for the terminal."""
    seen = f"face in {prediction.with_face} of {len(prediction.numbers)} frames"
    if prediction.problem:
        return f"{prediction.name}: {prediction.problem}; {seen}"
    if (others := len(prediction.faces) - 1) > 0:
        seen += f"; {others} more face{'s' * (others > 1)}"
    if others := prediction.other_faces:
        seen += f"; {others} other face{'s' * (others > 1)} not predicted"
    return f"{prediction.name}: {prediction.verdict(prediction.faces[0])}; {seen}"
