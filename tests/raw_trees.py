"""Small made-up copies of the data sets, in the exact layout in which each is distributed.

Every make_* function writes a tree below `root` and returns what it should be read as:
`{split: {clip_id: class}}`. The frames are drawn: the top quarter is a plain gray that gets lighter
from frame to frame, so that a test can prove the order; below is a figure that depends on the class.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import openpyxl
import tensorflow_datasets as tfds

DFEW = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
DFEW_HEADER = ("1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear")
MAFW = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness"),
    *("surprise", "contempt", "anxiety", "helplessness", "disappointment"),
)
FERV_FOLDERS = ("Happy", "Sad", "Neutral", "Angry", "Surprise", "Disgust", "Fear")
FOLDS = (1, 2, 3, 4, 5)

Truth = dict[str, dict[str, str]]


def draw_frame(index: int, total: int, label: int, size: int) -> np.ndarray:
    """Returns frame `index` of `total`, uint8 [size, size, 3], blue first."""
    image = np.full((size, size, 3), 40, np.uint8)
    image[: size // 4] = 20 + round(210 * index / max(total - 1, 1))
    color = [int(c) for c in np.random.default_rng(label).integers(80, 255, 3)]
    center = (size // 4 + (label * size // 14) % (size // 2), size * 5 // 8)
    cv2.ellipse(image, center, (size // 6 + label % 3, size // 4), 15.0 * label, 0, 360, color, -1)
    return image


@functools.cache
def picture(index: int, total: int, label: int, size: int, suffix: str) -> bytes:
    """Returns a drawn frame as the contents of a file."""
    done, data = cv2.imencode(suffix, draw_frame(index, total, label, size))
    assert done
    return data.tobytes()


def level(jpeg: bytes) -> float:
    """Returns how light the top of a stored frame is; it rises with the frame's index."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return float(image[: image.shape[0] // 5].mean())


def write_clip(
    folder: pathlib.Path,
    name: Callable[[int], str],
    *,
    frames: int,
    label: int,
    size: int,
) -> None:
    """Writes a clip as pictures; `name` gives the file name of a frame, its index from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(frames):
        path = folder / name(i)
        path.write_bytes(picture(i, frames, label, size, path.suffix))


def write_video(path: pathlib.Path, *, frames: int, label: int, size: int, fps: float = 25) -> None:
    """Writes a clip as a video, Motion JPEG in .avi, else MPEG-4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), codec, fps, (size, size))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(draw_frame(i, frames, label, size))
    writer.release()


def write_lines(
    path: pathlib.Path,
    lines: Sequence[str],
    *,
    end: str = "\n",
    encoding: str = "utf-8",
) -> None:
    """Writes a text file with the given line ends; encoding `utf-8-sig` puts a mark in front."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))


def write_table(path: pathlib.Path, rows: Sequence[Sequence[object]]) -> None:
    """Writes rows as .xlsx or .csv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        write_lines(path, [",".join(map(str, row)) for row in rows])
        return
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    book.save(path)


def dfew_votes(label: int) -> list[int]:
    """Returns the ten votes that make_dfew writes for a class: 7 for it, 3 for the next one."""
    return [7 if c == label else 3 if c == (label + 1) % 7 else 0 for c in range(7)]


def make_dfew(
    root: pathlib.Path,
    *,
    clips_per_class_per_fold: int = 2,
    frames: int = 20,
    size: int = 64,
    clips: str = "Clip/clip_224x224",
    lists: str = "EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv",
    header: bool = True,
    label_base: int = 1,
    end: str = "\n",
    encoding: str = "utf-8",
    nested: bool = False,
    annotation: str = "Annotation/annotation.xlsx",
    columns: Sequence[str] = (*DFEW_HEADER, "order", "label"),
) -> Truth:
    """Writes DFEW.

    Args:
      root: folder to write to.
      clips_per_class_per_fold: clips of each class in the test set of each fold.
      frames: frames of each clip.
      size: height and width of a frame, in pixels.
      clips: folder of the clips; the kind of clip goes by its name, as distributed.
      lists: where the lists lie.
      header: whether the lists have one.
      label_base: number of the first class in the lists.
      end: line end of the lists.
      encoding: encoding of the lists.
      nested: whether each clip's folder lies in another of the same name.
      annotation: where the votes lie; empty for no such file.
      columns: order of the columns there.
    """
    folds: dict[int, dict[int, int]] = {fold: {} for fold in FOLDS}
    number = 0
    for _ in range(clips_per_class_per_fold):
        for label in range(7):
            for fold in FOLDS:
                number += 1
                folds[fold][number] = label
    for fold in FOLDS:
        tests = folds[fold]
        trains = {n: c for k in FOLDS if k != fold for n, c in folds[k].items()}
        for part, rows in (("test", tests), ("train", trains)):
            lines = ["video_name,label"] if header else []
            lines += [f"{n},{c + label_base}" for n, c in rows.items()]
            path = root / lists.format(part=part, fold=fold)
            write_lines(path, lines, end=end, encoding=encoding)
    labels = dict(sorted((n, c) for rows in folds.values() for n, c in rows.items()))
    for n, c in labels.items():
        _write_dfew_clip(root / clips, n, nested=nested, frames=frames, label=c, size=size)
    if annotation:
        rows = [
            dict(zip(DFEW_HEADER, dfew_votes(c), strict=True)) | {"order": n, "label": c + 1}
            for n, c in labels.items()
        ]
        write_table(root / annotation, [columns, *([row[c] for c in columns] for row in rows)])
    return {
        f"fold{fold}": {f"{n:05d}": DFEW[c] for n, c in rows.items()}
        for fold, rows in folds.items()
    }


def _write_dfew_clip(
    folder: pathlib.Path, number: int, *, nested: bool, frames: int, label: int, size: int
) -> None:
    name = f"{number:05d}"
    if folder.name == "clip_224x224_avi":
        write_video(folder / f"{name}.avi", frames=frames, label=label, size=size)
    elif folder.name == "original":
        write_video(folder / f"{number}.mp4", frames=frames, label=label, size=size)
    else:
        clip = folder / name / name if nested else folder / name
        is_plain = folder.name == "clip_224x224_16f"
        names = (lambda i: f"{i + 1}.jpg") if is_plain else (lambda i: f"{name}_{i + 1:05d}.jpg")
        write_clip(clip, names, frames=frames, label=label, size=size)


def make_ferv39k(
    root: pathlib.Path,
    *,
    clips_per_class: tuple[int, int] = (2, 1),
    frames: int = 20,
    size: int = 64,
    setup: str = "All_scenes",
    lists: str = "{part}_All.csv",
    line: str = "{path} {label}",
    header: str = "",
    end: str = "\n",
    scenes: Sequence[str] = ("Action", "DailyLife"),
) -> Truth:
    """Writes FERV39k; names of frames have no zeros in front.

    Args:
      root: folder to write to.
      clips_per_class: clips of each class for training and for testing.
      frames: frames of each clip.
      size: height and width of a frame, in pixels.
      setup: folder of the lists.
      lists: name of the lists.
      line: form of a line; `{path}`, `{label}` (a name) and `{number}` (alphabetical) are filled in.
      header: first line of the lists; none as distributed.
      end: line end of the lists.
      scenes: clips go to these in turn.
    """
    truth: Truth = {}
    number = 0
    alphabetical = sorted(FERV_FOLDERS)
    for part, count in zip(("train", "test"), clips_per_class, strict=True):
        truth[part] = {}
        lines = [header] if header else []
        for _ in range(count):
            for label, folder in enumerate(FERV_FOLDERS):
                number += 1
                path = f"{scenes[number % len(scenes)]}/{folder}/{number:04d}"
                clip = root / "2_ClipsforFaceCrop" / path
                write_clip(clip, lambda i: f"{i}.jpg", frames=frames, label=label, size=size)
                index = alphabetical.index(folder)
                lines.append(line.format(path=path, label=folder, number=index))
                truth[part][path] = DFEW[label]
        write_lines(root / "4_setups" / setup / lists.format(part=part), lines, end=end)
    return truth


def make_mafw(
    root: pathlib.Path,
    *,
    task: str = "single",
    compounds: Sequence[str] = ("anger_disgust", "sadness_fear", "surprise_happiness"),
    clips_per_class_per_fold: int = 1,
    frames: int = 20,
    size: int = 64,
    clips: str = "data/frames",
    captions: bool = False,
    votes: str = "Labels/single_set.xlsx",
) -> Truth:
    """Writes MAFW.

    Args:
      root: folder to write to.
      task: single or compound, where the compound task has the singles and `compounds`.
      compounds: as written in the lists; their parts are in any order.
      clips_per_class_per_fold: clips of each class in the test set of each fold.
      frames: frames of each clip.
      size: height and width of a frame, in pixels.
      clips: folder of the clips, a name that ends in `clips` for videos.
      captions: whether to write lists with captions (GBK, tabs) instead of those without.
      votes: where the votes lie, 8 for the class and 3 for the next; empty for no such file.
    """
    names = MAFW + (tuple(compounds) if task == "compound" else ())
    folds: dict[int, dict[str, str]] = {fold: {} for fold in FOLDS}
    number = 0
    for _ in range(clips_per_class_per_fold):
        for name in names:
            for fold in FOLDS:
                number += 1
                folds[fold][f"{number:05d}"] = name
    caption = "with_caption" if captions else "no_caption"
    for fold in FOLDS:
        trains = {n: c for k in FOLDS if k != fold for n, c in folds[k].items()}
        for part, rows in (("test", folds[fold]), ("train", trains)):
            form = "{}.mp4\t{}\t他很高兴。\tA man, who is glad" if captions else "{}.mp4 {}"
            write_lines(
                root / "Train & Test Set" / task / caption / f"set_{fold}" / f"{part}.txt",
                [form.format(n, c) for n, c in rows.items()],
                encoding="gbk" if captions else "utf-8",
                end="\r\n" if captions else "\n",
            )
    labels = {n: c for rows in folds.values() for n, c in rows.items()}
    for n, c in labels.items():
        kind = {"frames": frames, "label": names.index(c), "size": size}
        if clips.endswith("clips"):
            write_video(root / clips / f"{n}.mp4", **kind)
        else:
            write_clip(root / clips / n, lambda i: f"{i + 1}.png", **kind)
    if votes:
        order = MAFW[::-1]  # not the order of the classes
        rows = [
            ["text", *(8 if e in c else 3 if e == "neutral" else 0 for e in order), n + ".mp4"]
            for n, c in labels.items()
        ]
        write_table(root / votes, [("remark", *(e.title() for e in order), "clip"), *rows])
    return {
        f"fold{fold}": {n: canonical_compound(c) for n, c in rows.items()}
        for fold, rows in folds.items()
    }


def canonical_compound(name: str) -> str:
    """Returns a compound with its parts in MAFW's order."""
    return "_".join(sorted(name.split("_"), key=MAFW.index))


def make_video_folder(
    root: pathlib.Path,
    *,
    classes: Sequence[str] = ("calm", "glad", "tense"),
    clips_per_class: int = 5,
    frames: int = 20,
    size: int = 64,
    splits: Sequence[str] = (),
    fps: float = 25,
) -> Truth:
    """Writes `root/[split/]<class>/<clip>`, the clips being .mp4, .avi and folders in turn.

    Returns:
      The classes for each split, under the split "" where there are none.
    """
    truth: Truth = {split: {} for split in (splits or ("",))}
    for split, rows in truth.items():
        for label, name in enumerate(classes):
            for i in range(clips_per_class):
                clip = f"clip{i}" + ("", ".mp4", ".avi")[i % 3]
                path = root / split / name / clip
                if path.suffix:
                    write_video(path, frames=frames, label=label, size=size, fps=fps)
                else:
                    write_clip(path, lambda i: f"f{i}.png", frames=frames, label=label, size=size)
                rows[path.relative_to(root).as_posix()] = name
    return truth


def build(module: Any, data_dir: pathlib.Path, **options: Any) -> tfds.core.DatasetBuilder:
    """Builds a data set the way `--mode=build` does; `module` is a `*_dataset_builder`."""
    config = module.Options(name="small", **options)
    builder = module.Builder(data_dir=data_dir, config=config)
    builder.download_and_prepare(file_format="array_record")
    return builder


def read(builder: tfds.core.DatasetBuilder, split: str) -> dict[str, dict[str, Any]]:
    """Returns the records of a split by clip_id, read from disk without the builder's code.

    `class` is added to each record: the name that its label stands for.
    """
    stored = tfds.builder_from_directory(builder.data_dir)
    names = stored.info.features["label"].names
    records = list(stored.as_data_source(split))
    result = {r["clip_id"].decode(): r | {"class": names[r["label"]]} for r in records}
    assert len(result) == len(records)
    return result


def read_truth(builder: tfds.core.DatasetBuilder) -> Truth:
    """Returns the class of each clip of each split, as the make_* functions do."""
    return {
        split: {clip: record["class"] for clip, record in read(builder, split).items()}
        for split in builder.info.splits
    }


def truth_of(plan: Any) -> Truth:
    """Returns the class of each clip of each split of a plan."""
    return {
        split: {entry.clip_id: plan.classes[entry.label] for entry in entries}
        for split, entries in plan.splits.items()
    }


def levels_rise(record: dict[str, Any]) -> bool:
    """Returns whether the drawn frames of a record are in time order."""
    return bool(np.all(np.diff([level(jpeg) for jpeg in record["frames"]]) > 3))
