"""Turns a plan (the path, label and split of every clip) into a TFDS data set of records.

The four builders of recorded videos differ only in how they read the plan from the user's folder. This
module does the rest: it probes every clip, prints the table, stops if clips are missing, converts and
writes.

GeneratorBasedBuilder of TFDS sorts splits of more than 1 GB through temporary files, which needs
TensorFlow. These builders write their shards one by one instead, in an order that depends only on the
names of the clips. This needs no TensorFlow and little memory, and is deterministic.
"""

import abc
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from etils import epath

from rdfer_jax import paths
from rdfer_jax.faces.cut import DISTRIBUTOR, NOBODY, Cut
from rdfer_jax.setting_types import AUTO

from . import counts, frames, plans, raw, relabel, schema, workers
from .plans import Entry, Plan

#: Frames in one shard, about 100 MB at a short side of 128 pixels.
_FRAMES_PER_SHARD = 16_384

#: Options of crop_faces.
_FACE_OPTIONS = ("face_detector", "face_margin", "face_align", "min_face")
#: For crop_faces = "auto": number of clips that are looked at, the share of them that must show a face, and
#: the share of the picture that a face fills in clips that come cropped to it.
_LOOKED_AT, _WITH_FACE, _FILLED = 40, 0.9, 0.35
_BASE_FIELDS = tuple(field.name for field in dataclasses.fields(tfds.core.BuilderConfig))


@dataclasses.dataclass(kw_only=True)
class ClipOptions(tfds.core.BuilderConfig):
    """Options of every data set of recorded videos.

    Attributes:
      source_dir: folder with the original files of the data set.
      short_side: short side of the stored frames, in pixels; smaller frames are not enlarged.
      jpeg_quality: quality of the stored frames, 1 to 100.
      allow_missing: maximum number of clips that are missing, unreadable or without a face, which are left
        out and counted; with more, the build stops. True: any number; False: 0.
      labels: clip_id -> class name, in place of the label in the lists.
      crop_faces: whether to find the largest face of each clip, follow it and store only it, as a square of
        short_side pixels. Clips without a face count as missing. "auto" does so if nearly all clips show
        a face, and most of them more than a face; see choose_cut.
      face_detector: blazeface or haar, see rdfer_jax/faces/detect.py; this and the next three only with
        crop_faces.
      face_margin: added on every side of the face, as a fraction of its box, 0 to 1.
      face_align: whether to turn each face so that its eyes are level; haar finds no eyes.
      min_face: smallest face that is detected, as a fraction of the frame's short side, 0.01 to 1.
    """

    source_dir: str = ""
    short_side: int = 128
    jpeg_quality: int = 95
    allow_missing: int = 0
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    crop_faces: bool | str = False
    face_detector: str = "blazeface"
    face_margin: float = Cut.margin
    face_align: bool = True
    min_face: float = Cut.min_face

    def __post_init__(self):
        if self.short_side < 16:
            raise ValueError(f"short_side={self.short_side}: use 16 pixels or more")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality={self.jpeg_quality}: use 1 to 100")
        self.source_dir = paths.expand(self.source_dir)
        if self.allow_missing is False:
            self.allow_missing = 0
        if not isinstance(self.allow_missing, int) or self.allow_missing < 0:
            raise ValueError(f"allow_missing={self.allow_missing!r}: use 0 or more, or True")
        if self.crop_faces not in (True, False, AUTO):
            raise ValueError(f"crop_faces={self.crop_faces!r}: use True, False or auto")
        if self.face_detector not in ("blazeface", "haar"):
            raise ValueError(f"face_detector={self.face_detector!r}: use blazeface or haar")
        if not 0 <= self.face_margin <= 1:
            raise ValueError(f"face_margin={self.face_margin}: use 0 to 1")
        if not 0.01 <= self.min_face <= 1:
            raise ValueError(f"min_face={self.min_face}: use 0.01 to 1")

    @property
    def most_missing(self) -> float:
        """Maximum number of missing clips, infinite for allow_missing=True."""
        return math.inf if self.allow_missing is True else self.allow_missing

    @property
    def cut(self) -> Cut:
        """How to cut out faces, if they are."""
        return Cut(self.face_detector, self.min_face, self.face_margin, self.face_align)

    def content(self) -> dict[str, Any]:
        """Returns the options that determine the records, as plain JSON values.

        The source folder is left out, and how faces would be cut if they are not; labels are represented by
        their digest, and crop_faces = "auto" by itself.
        """
        fields = [f.name for f in dataclasses.fields(self) if f.name not in _BASE_FIELDS]
        without = {"source_dir", "labels"} | (set() if self.crop_faces else set(_FACE_OPTIONS))
        values = {f: getattr(self, f) for f in fields if f not in without}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return values | relabel.content(self.labels)


class MissingClipsError(FileNotFoundError):
    """Listed clips are missing, unreadable or without a face."""


def _complaint(entry: Entry, problem: str) -> str:
    return f"{entry.clip_id}: {problem}" + (f" (listed in {entry.where})" if entry.where else "")


#: The clips of each split, with their probes.
Probed = dict[str, list[tuple[Entry, frames.Probe]]]


def probe_clips(plan: Plan, pool: workers.Pool) -> Probed:
    """Probes every clip of a plan, and returns the clips in the order in which they are stored.

    They are ordered by a hash of their names, which is deterministic and as good as a shuffle.
    """
    ordered = {
        split: sorted(entries, key=lambda e: hashlib.md5(e.clip_id.encode()).hexdigest())
        for split, entries in plan.splits.items()
    }
    paths = [e.path for entries in ordered.values() for e in entries if e.path]
    probe = functools.partial(frames.probe, root=plan.root)
    probes = pool.map(probe, paths, total=len(paths))
    probes = iter(tqdm.tqdm(probes, "checking", len(paths), unit="clip", disable=None))
    missing = frames.Probe(problem="no folder or video of that name")
    return {
        split: [(entry, next(probes) if entry.path else missing) for entry in entries]
        for split, entries in ordered.items()
    }


def choose_cut(
    options: ClipOptions, plan: Plan, probed: Probed, pool: workers.Pool
) -> tuple[Cut | None, tuple[str, ...]]:
    """Returns how to cut out faces, None to store whole frames; and lines for the user that say why.

    For crop_faces = "auto", some clips are looked at. Faces are cut out if at least _WITH_FACE of these
    clips show one, and in most of them the largest fills less than _FILLED of the picture.
    """
    if options.crop_faces != AUTO:
        again = options.crop_faces and plan.are_faces
        note = ("the clips come cropped to the face; crop_faces cuts them again",) if again else ()
        return options.cut if options.crop_faces else None, note
    readable = [e.path for clips in probed.values() for e, probe in clips if not probe.problem]
    if plan.are_faces or not readable:
        return None, ()
    chosen = readable[:: -(-len(readable) // _LOOKED_AT)]
    look = functools.partial(frames.face_size, cut=options.cut)
    sizes = np.array(list(pool.map(look, chosen, total=len(chosen))))
    shown = sizes[sizes > 0]
    seen = f"crop_faces: a face in {len(shown)} of {len(sizes)} clips looked at"
    if len(shown) < _WITH_FACE * len(sizes):
        advice = "" if not len(shown) else "; True cuts out faces, and leaves out clips without one"
        return None, (f"{seen}, so whole frames are stored{advice}",)
    filled = f"it fills {np.median(shown):.0%} of the picture"
    if np.median(shown) >= _FILLED:
        return None, (f"{seen}; {filled}, so the frames are stored as they are",)
    return options.cut, (f"{seen}; {filled}, so faces are cut out",)


def shards(
    clips: Sequence[tuple[Entry, frames.Probe]], limit: int = _FRAMES_PER_SHARD
) -> list[list[Entry]]:
    """Divides a split into shards of about `limit` frames, with at least one clip each."""
    result: list[list[Entry]] = [[]]
    size = 0
    for entry, probe in clips:
        if result[-1] and size + probe.num_frames > limit:
            result.append([])
            size = 0
        result[-1].append(entry)
        size += probe.num_frames
    return result


def check_full(classes: Sequence[str], split: str, clips: Sequence[int]) -> None:
    """Raises ValueError when a split lacks a class."""
    empty = [name for name, count in zip(classes, clips, strict=True) if not count]
    if empty:
        names = raw.listed(empty)
        raise ValueError(f"no clip of {names} in the {split} split; add at least one of each")


class ClipBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builds a data set from a plan; see the docstring of the module."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    @abc.abstractmethod
    def _classes(self) -> tuple[str, ...]:
        """Returns the names of the classes in order; may read the user's folder."""

    def _has_groups(self) -> bool:
        """Returns whether clips belong together."""
        return False

    @abc.abstractmethod
    def plan(self) -> Plan:
        """Reads the lists of clips."""

    def published(self) -> counts.Published:
        """Returns the published counts of this variant; empty if there are none."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        # A finished data set stores its classes, so the original files are not needed.
        is_built = (epath.Path(self.data_dir) / "features.json").exists()
        features = (
            tfds.features.FeaturesDict.from_config(self.data_dir)
            if is_built
            else schema.features(self._classes(), with_groups=self._has_groups())
        )
        metadata = tfds.core.MetadataDict(options=self.builder_config.content())
        return self.dataset_info_from_configs(features=features, metadata=metadata)

    def download_and_prepare(self, **kwargs: Any) -> None:
        """Builds the data set; see tfds.core.DatasetBuilder.

        Raises:
          MissingClipsError: more clips are missing, unreadable or without a face than allow_missing
            permits.
        """
        bar = tqdm.tqdm(desc="converting", unit="clip", disable=None, leave=False, delay=1)
        with workers.Pool() as self._pool, bar as self._bar:
            super().download_and_prepare(**kwargs)

    def summary(self) -> str:
        """Returns the table and the notes of the built data set as text."""
        return self._report(self.info.metadata)

    def closing(self) -> str:
        """Returns the summary, without what was printed before the conversion and is still so."""
        lines, known = self.summary().split("\n"), set(map(_words, self._printed.split("\n")))
        no_short = f"under {counts.SHORT} frames" + " 0" * (len(self.info.splits) + 1)
        if known <= set(map(_words, lines)):
            lines = [line for line in lines if _words(line) not in known | {no_short}]
        return "\n".join([*lines, f"built in {self.data_dir}"])

    def _report(self, metadata: Mapping[str, Any]) -> str:
        splits = metadata["splits"]
        rows = {"missing": "missing", f"under {counts.SHORT} frames": "short"}
        extra = {
            name: {split: numbers[key] for split, numbers in splits.items()}
            for name, key in rows.items()
            if all(key in numbers for numbers in splits.values())
        }
        clips = {split: numbers["clips"] for split, numbers in splits.items()}
        classes = self.info.features["label"].names
        lines = [
            f"{self.name}/{self.builder_config.name}",
            counts.table(classes, clips, extra, self.published()),
            *metadata["notes"],
        ]
        stored = sum(numbers.get("frames", 0) for numbers in splits.values())
        if stored:
            mean = stored / sum(map(sum, clips.values()))
            lines.append(f"{stored} frames, {mean:.1f} per clip")
        if damaged := metadata.get("damaged_clips"):
            lines.append(
                f"damaged or log footage, stored as far as they can be read: {len(damaged)}"
            )
            lines.append(raw.listing(damaged))
        return "\n".join([*lines, *_face_lines(metadata)])

    def _shard_iterators_per_split(
        self, dl_manager: Any
    ) -> dict[str, list[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        del dl_manager  # nothing is downloaded
        plan = plans.with_labels(self.plan(), self.builder_config.labels)
        probed = probe_clips(plan, self._pool)
        self._cut, note = choose_cut(self.builder_config, plan, probed, self._pool)
        plan = dataclasses.replace(plan, notes=(*plan.notes, *note))
        good = self._readable(plan, probed)
        missing = [entry.clip_id for clips in probed.values() for entry, p in clips if p.problem]
        # Clips are counted while they are written, because a broken frame may be detected only then.
        splits = {
            split: {
                "clips": [0] * len(plan.classes),
                "missing": len(probed[split]) - len(good[split]),
                "short": 0,
                "frames": 0,
            }
            for split in good
        }
        self._unconverted = {entry.clip_id: entry for clips in good.values() for entry, _ in clips}
        self.info.metadata.update(
            notes=list(plan.notes),
            **plan.facts,
            splits=splits,
            missing_clips=missing,
            damaged_clips=[],
            faces=self._faces(plan),
        )
        if self._cut:
            # Names of clips without a face and with several; frames that do not show the clip's face.
            self.info.metadata["face_search"] = {"none": [], "several": [], "frames_without": 0}
        self._bar.reset(total=_count(good))
        return {
            split: [functools.partial(self._records, plan, split, shard) for shard in shards(clips)]
            for split, clips in good.items()
        }

    def _faces(self, plan: Plan) -> dict[str, Any]:
        """Returns what to remember of how faces were cut, see rdfer_jax/faces/cut.py."""
        if self._cut:
            return self._cut.to_json(self.builder_config.short_side)
        return {"by": DISTRIBUTOR if plan.are_faces else NOBODY}

    def _readable(self, plan: Plan, probed: Probed) -> Probed:
        """Prints the table and returns the readable clips; raises if too many are missing."""
        good = {s: [(e, p) for e, p in clips if not p.problem] for s, clips in probed.items()}
        complaints = [
            _complaint(entry, probe.problem)
            for clips in probed.values()
            for entry, probe in clips
            if probe.problem
        ]
        planned: dict[str, Any] = {
            split: {
                "clips": counts.per_class(plan.classes, [entry.label for entry, _ in clips]),
                "missing": len(probed[split]) - len(clips),
            }
            for split, clips in good.items()
        }
        self._printed = self._report({"splits": planned, "notes": plan.notes})
        print(self._printed, flush=True)
        self._num_clips = _count(probed)
        self._complaints: list[str] = []
        self._leave_out(complaints)
        for split, clips in good.items():
            if not clips:
                raise MissingClipsError(f"{split}: none of its clips exists and is readable")
        if plan.full_split:
            check_full(plan.classes, plan.full_split, planned[plan.full_split]["clips"])
        return good

    def _leave_out(self, complaints: Sequence[str]) -> None:
        """Counts and names clips that cannot be stored; raises if there are too many."""
        self._complaints += complaints
        number, allowed = len(self._complaints), self.builder_config.most_missing
        if number > allowed:
            what = "missing, unreadable or without a face" if self._cut else "missing or unreadable"
            whole = " To store whole frames: --config.build.crop_faces=False." if self._cut else ""
            raise MissingClipsError(
                f"{number} of {self._num_clips} clips are {what}:\n"
                f"{raw.listing(self._complaints)}\nRestore them, or build without them: "
                f"--config.build.allow_missing={number} (now {allowed:g}), or True for any number.{whole}"
            )
        if complaints:
            print(f"left out:\n{raw.listing(complaints)}", flush=True)

    def _records(
        self, plan: Plan, split: str, entries: Sequence[Entry]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the records of a shard, and counts them in the metadata."""
        metadata = self.info.metadata
        numbers = metadata["splits"][split]
        num_written = 0
        converted = self._converted(plan, entries)
        for entry, result in converted:
            if result.problem:
                complaints = [_complaint(entry, result.problem)]
                if len(self._complaints) >= self.builder_config.most_missing:
                    complaints += self._further_complaints(plan, converted)
                self._leave_out(complaints)
                numbers["missing"] += 1
                metadata["missing_clips"].append(entry.clip_id)
                if result.problem == frames.NO_FACE:
                    metadata["face_search"]["none"].append(entry.clip_id)
                continue
            if result.faces > 1:
                metadata["face_search"]["several"].append(entry.clip_id)
            if result.without:
                metadata["face_search"]["frames_without"] += result.without
            numbers["clips"][entry.label] += 1
            numbers["short"] += len(result.frames) < counts.SHORT
            numbers["frames"] += len(result.frames)
            if result.damage:
                metadata["damaged_clips"].append(f"{entry.clip_id}: {result.damage}")
            num_written += 1
            group = {"group": entry.group} if "group" in self.info.features else {}
            yield entry.clip_id, record(entry, result.frames, len(plan.classes)) | group
        if not num_written:
            raise MissingClipsError(
                f"{split}: none of the {len(entries)} clips of a shard is readable; the first one is "
                f"{entries[0].clip_id}"
            )

    def _converted(
        self, plan: Plan, entries: Sequence[Entry]
    ) -> Iterator[tuple[Entry, frames.Converted]]:
        """Converts clips, and strikes them off those to convert."""
        options = self.builder_config
        jobs = (
            frames.Job(
                entry.path, options.short_side, options.jpeg_quality, plan.max_fps, self._cut
            )
            for entry in entries
        )
        results = self._pool.map(frames.convert, jobs, total=len(entries))
        for entry, result in zip(entries, results, strict=True):
            self._bar.update()
            del self._unconverted[entry.clip_id]
            yield entry, result

    def _further_complaints(
        self, plan: Plan, rest: Iterator[tuple[Entry, frames.Converted]]
    ) -> list[str]:
        """Reads all other clips of a build that has failed, so that its message names every bad one."""
        complaints = [_complaint(entry, result.problem) for entry, result in rest if result.problem]
        others = self._converted(plan, list(self._unconverted.values()))
        return complaints + [_complaint(entry, r.problem) for entry, r in others if r.problem]


def _words(line: str) -> str:
    """Returns a line without the spaces that align it."""
    return " ".join(line.split())


def record(entry: Entry, jpegs: Sequence[bytes], num_classes: int) -> dict[str, Any]:
    """Returns the record of a clip, in the format of schema.py, without the group."""
    votes = entry.votes or (0.0,) * num_classes
    return {
        "clip_id": entry.clip_id,
        "frames": list(jpegs),
        "label": entry.label,
        "votes": np.asarray(votes, np.float32),
    }


def _face_lines(metadata: Mapping[str, Any]) -> list[str]:
    """Returns lines about the faces of a data set, if the build cut them."""
    if "face_search" not in metadata:
        return []
    search, faces = metadata["face_search"], metadata["faces"]
    lines = [f"faces cut by {Cut.from_json(faces)}, {faces['size']} pixels"]
    for key, what in (("none", "no face, left out"), ("several", "several faces, largest stored")):
        names = search[key]
        lines.append(f"{what}: {len(names)} clips" + (f": {raw.listed(names)}" if names else ""))
    lines.append(f"frames that do not show the face, left out: {search['frames_without']}")
    return lines


def _count(clips: Mapping[str, Sequence[Any]]) -> int:
    return sum(map(len, clips.values()))
