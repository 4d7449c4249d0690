"""Damaged input for every parser of what users supply: lists, votes, labels, predictions, pictures.

    python -m tests.robustness.fuzz --inputs=100000
    python -m tests.robustness.fuzz --inputs=1000000 --seconds=600 --parsers=labels,predictions

Each parser reads so many inputs, made of valid ones by flipping, cutting, repeating and exchanging bytes,
lines, fields and members of archives, and by putting in what is known to hurt. An input must be accepted,
or refused by an error that the parser documents, with a message that names the file. All else is a crash:
another error, a long wait, and, as far as Python sees it (not inside of OpenCV), a file opened outside of
the input's folder, a process, a connection, or an object made from a pickle. Equal seeds give equal inputs.
Prints a table and writes JSON; with a crash, the inputs are kept and the exit status is 1.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import openpyxl
from absl import app, flags
from etils import epath
from tqdm import tqdm

from data import frames, relabel
from data.dfew import dfew_dataset_builder as dfew
from data.ferv39k import ferv39k_dataset_builder as ferv39k
from data.mafw import mafw_dataset_builder as mafw
from data.video_folder import video_folder_dataset_builder as video_folder
from experiments import grid
from rdfer_jax.media import video
from rdfer_jax.pipeline import label_files
from rdfer_jax.training.predictions import read_predictions

CLASSES = ("happy", "sad", "fear")
#: Crashes of a parser that are kept.
KEPT = 10
#: Characters of the longest message.
LONGEST_MESSAGE = 20_000

Mutate = Callable[[bytes, random.Random], bytes]


@dataclasses.dataclass(frozen=True)
class Parser:
    """What reads a file of users.

    Attributes:
      file: name of the file.
      examples: valid contents.
      read: reads the file; an AssertionError says that it accepted what it must not.
      mutate: damages an example.
      named: what the message of each error holds; empty for the name of the file.
      errors: those that are documented.
    """

    file: str
    examples: Sequence[bytes]
    read: Callable[[epath.Path], Any]
    mutate: Mutate
    named: str = ""
    errors: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)


@dataclasses.dataclass
class Found:
    """What came of the inputs of a parser; crashes are (number of the input, what happened)."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    seconds: float = 0.0
    crashes: list[tuple[int, str]] = dataclasses.field(default_factory=list)


# Damage.

_HURTS = (
    "", " ", "0", "-1", "8", "nan", "inf", "1e999", "0x10", "9" * 5000, "1" * 12, "1_0", "٣", "²",
    "..", ".", "/", "../../x", "/etc/passwd", "C:\\x", "\\\\host\\x", "~", "a/../../../etc", "//x",
    "gs://x/y", "file:///etc/passwd", "x" * 300, "y" * 70_000, "%s%n", "{0}", "$HOME", "=1+1",
    '"', '""', "'", "#", ",", "\t", "\0", "\r", "\x1b[2J", "\x85", "\u2028", "\u202e", "\ufeff",
    "\ufffd", "é", "e\u0301", "😀", "他", "happy", "anger_fear", "00001", "label", "path", "train",
)  # fmt: skip
#: Bytes of the header of a small array in an .npz file.
_HEADER = 128
_SEPARATORS = (",", "\t", " ", "/", "_")


def damage_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flips, cuts out, repeats, puts in, or cuts off bytes."""
    start, stop = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    how = draw.randrange(6)
    if how == 0 and data:
        at = draw.randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
    if how == 1:
        return data[:start]
    if how == 2:
        return data[:start] + data[min(stop, start + draw.randrange(8)) :]
    if how == 3:
        return data[:stop] + data[start:]
    if how == 4:
        return data[:start] + draw.randbytes(draw.randrange(1, 5)) + data[start:]
    return (
        data[:start] + draw.choice((b"\0", b"\xff", b"\xff" * 4, b"\x7f\xff")) + data[start + 1 :]
    )


def damage_lines(data: bytes, draw: random.Random) -> bytes:
    """Repeats, exchanges, drops and breaks lines and fields, changes line ends and encoding."""
    lines = data.decode("utf-8", "replace").split("\n")
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    separator = draw.choice(_SEPARATORS)
    fields = lines[at].split(separator)
    field = draw.randrange(len(fields))
    how = draw.randrange(10)
    if how == 0:
        lines.insert(other, lines[at])
    elif how == 1:
        lines[at], lines[other] = lines[other], lines[at]
    elif how == 2:
        del lines[at]
    elif how in (3, 4):
        fields[field] = draw.choice(_HURTS)
    elif how == 5:
        fields[field] += draw.choice(_HURTS)
    elif how == 6:
        fields.insert(field, draw.choice(fields))
    elif how == 7:
        fields.reverse()
    elif how == 8:
        end = draw.choice(("\r\n", "\r", "\n\n", "\v", "\u2028", "\0"))
        return end.join(lines).encode()
    else:
        encoding = draw.choice(("utf-8-sig", "utf-16", "utf-16-le", "latin-1", "gb18030", "utf-7"))
        return "\n".join(lines).encode(encoding, "replace")
    if 3 <= how <= 7:
        lines[at] = separator.join(fields)
    return "\n".join(lines).encode()


def damage_text(data: bytes, draw: random.Random) -> bytes:
    """Damages a text once or more, mostly its lines."""
    while True:
        data = (damage_bytes if draw.random() < 0.3 else damage_lines)(data, draw)
        if draw.random() < 0.5:
            return data


def damage_binary(data: bytes, draw: random.Random) -> bytes:
    """Damages bytes once or more."""
    while True:
        data = damage_bytes(data, draw)
        if draw.random() < 0.5:
            return data


def damage_archive(data: bytes, draw: random.Random) -> bytes:
    """Damages an archive from outside, or its members and their names."""
    if draw.random() < 0.2:
        return damage_binary(data, draw)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    for _ in range(draw.randrange(1, 3)):
        at, other = draw.randrange(len(members)), draw.randrange(len(members))
        name, content = members[at]
        how = draw.randrange(8)
        if how == 0 and len(members) > 1:
            del members[at]
        elif how == 1:
            members[at] = (members[other][0], content)
        elif how == 2:
            members[at] = (draw.choice(("../x.npy", "/x", "split.npy", "x", "é", "")), content)
        elif how == 3:
            members[at] = (name, damage_text(content[:_HEADER], draw) + content[_HEADER:])
        elif how == 4:
            members[at] = (name, damage_binary(content, draw))
        else:
            members[at] = (name, content[:_HEADER] + damage_bytes(content[_HEADER:], draw))
    return _packed(members, zipfile.ZIP_DEFLATED if draw.random() < 0.05 else zipfile.ZIP_STORED)


def _packed(members: Sequence[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Returns an archive of (name, content), the same at any time."""
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", compression) as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name or "x"), content, compression)
    return packed.getvalue()


# Parsers.


def _dfew(path: epath.Path) -> None:
    assert all(0 <= label < 7 for label, _ in dfew.read_list(path).values())


def _dfew_votes(path: epath.Path) -> None:
    for votes, label in dfew.read_votes(path).values():
        assert len(votes) == 7 and all(0 <= vote < 1e9 for vote in votes) and label >= -1


def _is_inside(clip: str) -> bool:
    return not clip.startswith("/") and ".." not in clip.split("/") and min(clip) >= " "


def _ferv39k(path: epath.Path) -> None:
    listed = ferv39k.read_list(path)
    ferv39k.class_of_labels(listed)
    assert all(len(line.path.split("/")) == 3 and _is_inside(line.path) for line in listed)


def _mafw(path: epath.Path) -> None:
    for clip, (name, _) in mafw.read_list(path).items():
        assert _is_inside(clip) and set(name.split("_")) <= set(mafw.CLASSES)


def _mafw_votes(path: epath.Path) -> None:
    found = mafw.read_votes(path, {"00001", "00002"})
    assert all(len(votes) == 11 and min(votes) >= 0 for votes in found.values())


def _video_folder(path: epath.Path) -> None:
    found = video_folder.from_list(path.parent, path.name)
    video_folder.class_names(found, ())
    video_folder.divide(found, 20.0)
    assert all(_is_inside(clip.path) for clip in found)


def _labels(path: epath.Path) -> None:
    given = label_files.read(path, CLASSES)
    assert all(clip and 0 <= label < 3 for clip, label in given.items())


def _build_labels(path: epath.Path) -> None:
    given = label_files.read_names(path, "config.build.labels")
    names = {clip: label for clip, (label, _) in given.items()}
    relabel.indices(names, {"a.mp4", "b/1", "Anna, 3", "c"}, CLASSES)


def _predictions(path: epath.Path) -> None:
    needed = ("clip_id", "label", "logits", "clip_logits")
    found = read_predictions(path, needed)
    rows = {len(array) for array in found.arrays.values()}
    assert len(rows) == 1 and found["label"].max() < len(found.classes)


def _picture(path: epath.Path) -> None:
    assert frames.store_picture(path.read_bytes(), path, 16, 95)[:2] == b"\xff\xd8"


def _picture_to_predict(path: epath.Path) -> None:
    for frame in video.Pictures(path.parent).frames():
        assert frame.image.ndim == 3 and frame.image.size <= 3 * video.MAX_PIXELS


def _saved_example() -> bytes:
    arrays = {
        "split": "test",
        "classes": np.array(CLASSES),
        "clip_id": np.array(["a", "b"]),
        "label": np.array([0, 2], np.int32),
        "logits": np.ones((2, 3), np.float32),
        "clip_logits": np.ones((2, 2, 3), np.float32),
    }
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _sheet_example() -> bytes:
    book = openpyxl.Workbook()
    for row in (_VOTES, range(9), range(1, 10)):
        book.active.append(list(row))
    file = io.BytesIO()
    book.save(file)
    with zipfile.ZipFile(file) as archive:
        # Without the time at which it was written.
        return _packed([(n, archive.read(n)) for n in archive.namelist() if "core.xml" not in n])


def _picture_examples() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    progressive = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    suffixes = (".jpg", ".png", ".png", ".bmp", ".webp", ".tiff")
    encoded = [progressive, *(cv2.imencode(suffix, image) for suffix in suffixes)]
    return [data.tobytes() for _, data in encoded]


_VOTES = (
    "1happy",
    "2sad",
    "3neutral",
    "4angry",
    "5surprise",
    "6disgust",
    "7fear",
    "order",
    "label",
)


def parsers() -> dict[str, Parser]:
    """Returns every parser by its name."""
    votes = ",".join(_VOTES) + "\n7,3,0,0,0,0,0,1,1\n0,7,3,0,0,0,0,2,2\n"
    mafw_votes = "clip," + ",".join(mafw.CLASSES) + "\n"
    mafw_votes += "".join(f"{i:05d}.mp4,8,3,0,0,0,0,0,0,0,0,0\n" for i in (1, 2))
    return {
        "dfew list": Parser(
            "set_1.csv",
            [b"video_name,label\n1,1\n2,7\n3,3\n00012,1\n", b"1,2\r\n2,3\r\n"],
            _dfew,
            damage_text,
        ),
        "dfew votes csv": Parser("annotation.csv", [votes.encode()], _dfew_votes, damage_text),
        "dfew votes xlsx": Parser(
            "annotation.xlsx", [_sheet_example()], _dfew_votes, damage_archive
        ),
        "ferv39k list": Parser(
            "train_All.csv",
            [
                b"Action/Sad/0002 Sad\nDaily/Fear/0003 Fear\nWar/Sad/0012 Sad\n",
                b"path,id\nAction/Sad/0002,5\nAction/Fear/0003,2\n",
            ],
            _ferv39k,
            damage_text,
        ),
        "mafw list": Parser(
            "test.txt",
            [
                b"00001.mp4 anger\n00002.mp4 fear\n00003.mp4 anger_disgust\n",
                "00001.mp4\tanger\t他很高兴。\tA man\n00002.mp4\tfear\t她\tone\n".encode("gbk"),
            ],
            _mafw,
            damage_text,
        ),
        "mafw votes": Parser("single.csv", [mafw_votes.encode()], _mafw_votes, damage_text),
        "video_folder list": Parser(
            "list.csv",
            [
                b"path,label,split\na/1.mp4,calm,train\na/2.mp4,glad,test\n3.mp4,calm,train\n",
                'a/1.mp4,高兴\n"b, 2",平静\n'.encode(),
            ],
            _video_folder,
            damage_text,
        ),
        "labels": Parser(
            "labels.csv",
            [
                b"clip_id,label\na.mp4,sad\nb/1,happy\nc,fear\n",
                b'\xef\xbb\xbflabel,note,clip_id\r\nsad,"a, b","Anna, 3"\r\nfear,,c\r\n',
            ],
            _labels,
            damage_text,
        ),
        "labels to build with": Parser(
            "labels.csv",
            [b"clip_id,label\na.mp4,sad\nb/1,happy\n"],
            _build_labels,
            damage_text,
            named="labels",
        ),
        "predictions": Parser("predictions.npz", [_saved_example()], _predictions, damage_archive),
        "picture": Parser("1.jpg", _picture_examples(), _picture, damage_binary),
        "picture to predict": Parser(
            "1.jpg", _picture_examples(), _picture_to_predict, damage_binary
        ),
    }


# The watch.


class HangError(BaseException):
    """An input took too long; no parser catches it."""


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "os.utime",
)  # fmt: skip
_LEAVES = (
    "subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec", "socket.connect",
    "pickle.find_class", "ctypes.dlopen",
)  # fmt: skip


class Watch:
    """Notes what a parser does that it has no business to do, by Python's audit events.

    Use `during` as a context manager; `seen` then says what was done.
    """

    def __init__(self, folder: epath.Path):
        self._folder = pathlib.Path(folder).resolve()
        own = {sys.prefix, sys.base_prefix, *sys.path}
        self._own = tuple(pathlib.Path(path).resolve() for path in own)
        self._is_on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)  # for good: there is no way to take one away

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._is_on:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            writes = isinstance(args[2], int) and bool(args[2] & _WRITES)
            self._judge("writes" if writes else "reads", args[0])
        elif event in _CHANGES:
            for path in args[event == "os.symlink" : 2]:  # what a link names is only text
                if isinstance(path, str | bytes | os.PathLike):
                    self._judge(event, path)
        elif event in _LEAVES:
            self.seen.append(f"{event} {args[:2]!r:.200}")

    def _judge(self, what: str, path: Any) -> None:
        place = pathlib.Path(os.fsdecode(path)).resolve()
        if place.is_relative_to(self._folder):
            return
        is_module = what == "reads" and any(map(place.is_relative_to, self._own))
        if not is_module:  # these are imported when first needed
            self.seen.append(f"{what} {place}")

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Notes what is done in this context."""
        self.seen, self._is_on = [], True
        try:
            yield
        finally:
            self._is_on = False


@contextlib.contextmanager
def _alarm() -> Iterator[Callable[[float], Any]]:
    """Gives a function that sets a time, in seconds, until HangError is raised; 0 takes it back."""

    def stop(*_: Any) -> None:
        raise HangError

    start = time.monotonic()
    left, _ = signal.getitimer(signal.ITIMER_REAL)  # of pytest, say
    before = signal.signal(signal.SIGALRM, stop)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.signal(signal.SIGALRM, before)
        rest = max(left - (time.monotonic() - start), 0.001) if left else 0
        signal.setitimer(signal.ITIMER_REAL, rest)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hides what libraries print and warn of, and what those in C write to the standard error."""
    sys.stderr.flush()
    before = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def mutated(parser: Parser, name: str, seed: int, number: int) -> bytes:
    """Returns an input: the same for the same seed, parser and number."""
    draw = random.Random(f"{seed} {name} {number}")
    return parser.mutate(draw.choice(parser.examples), draw)


def fuzz(
    name: str,
    parser: Parser,
    watch: Watch,
    folder: epath.Path,
    *,
    inputs: int,
    seed: int = 0,
    seconds: float = 0.0,
    limit: float = 10.0,
) -> Found:
    """Gives damaged inputs to a parser.

    Args:
      name: of the parser, from which the inputs are drawn.
      parser: what reads them.
      watch: of this process.
      folder: an empty one, in the watch's, for the file.
      inputs: how many.
      seed: of the inputs.
      seconds: after which no further input is read; 0 for no limit.
      limit: seconds that an input may take.
    """
    path, found, start = folder / parser.file, Found(), time.monotonic()
    path.write_bytes(parser.examples[0])
    parser.read(path)  # which imports what it needs
    with _alarm() as alarm, _silent():
        for number in range(inputs):
            if seconds and time.monotonic() - start > seconds:
                break
            data = mutated(parser, name, seed, number)
            with open(path, "wb") as file:
                file.write(data)
            crash, is_refused, began = "", False, time.perf_counter()
            try:
                alarm(limit)
                with watch.during():
                    parser.read(path)
            except HangError:
                crash = f"no answer after {limit:g} seconds"
            except parser.errors as error:
                is_refused, crash = True, _complaint(str(error), parser)
            except AssertionError:
                crash = "accepted what it must not"
            except Exception as error:
                crash = f"{type(error).__name__}: {error}"
            finally:
                alarm(0)
            found.slowest_ms = max(found.slowest_ms, 1000 * (time.perf_counter() - began))
            found.inputs += 1
            if crash := crash or "; ".join(watch.seen):
                found.crashes.append((number, crash[:1000]))
            else:
                found.refused += is_refused
                found.accepted += not is_refused
    found.seconds = time.monotonic() - start
    return found


def _complaint(message: str, parser: Parser) -> str:
    """Says what is wrong with the message of an error, or nothing."""
    if (parser.named or parser.file) not in message:
        return f"a message that names no {parser.named or parser.file}: {message}"
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters: {message}"
    return ""


def table(found: dict[str, Found]) -> str:
    """Returns what was found as a Markdown table."""
    rows = [["parser", "inputs", "accepted", "refused", "crashes", "slowest, ms"]]
    for name, result in found.items():
        numbers = (result.inputs, result.accepted, result.refused, len(result.crashes))
        rows.append([name, *map(str, numbers), f"{result.slowest_ms:.1f}"])
    return grid.table(rows)


def run(
    known: dict[str, Parser],
    output: epath.Path,
    *,
    inputs: int,
    seed: int = 0,
    seconds: float = 0.0,
    limit: float = 10.0,
) -> int:
    """Fuzzes parsers, prints a table, writes fuzz.json and the inputs of the first crashes.

    Args:
      known: the parsers by name.
      output: folder to write to.
      inputs, seed, seconds, limit: see `fuzz`.

    Returns:
      The number of crashes.
    """
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Found] = {}
    # Each input is a file: in memory, where the system has a folder for that.
    memory = "/dev/shm" if epath.Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        watch = Watch(epath.Path(scratch))
        for name, parser in tqdm(known.items(), unit="parser", disable=None):
            folder = epath.Path(scratch) / name
            folder.mkdir()
            found[name] = fuzz(
                name, parser, watch, folder, inputs=inputs, seed=seed, seconds=seconds, limit=limit
            )
    print(f"{grid.hardware()}\n\n{table(found)}")
    report: dict[str, Any] = {
        "hardware": grid.hardware(),
        "commit": grid.commit(),
        "seed": seed,
        "parsers": {},
    }
    for name, result in found.items():
        kept = []
        for number, what in result.crashes[:KEPT]:
            path = output / f"{name.replace(' ', '_')}-{seed}-{number}-{known[name].file}"
            path.write_bytes(mutated(known[name], name, seed, number))
            print(f"{name}, input {number}: {what[:300]}\n  kept as {path}")
            kept.append({"number": number, "what": what, "file": path.name})
        numbers = {"crashes": len(result.crashes), "kept": kept}
        report["parsers"][name] = dataclasses.asdict(result) | numbers
    (output / "fuzz.json").write_text(grid.to_json(report))
    return sum(len(result.crashes) for result in found.values())


def main(argv: Sequence[str]) -> None:
    """Fuzzes, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    options = flags.FLAGS
    known = parsers()
    if unknown := set(options.parsers) - known.keys():
        raise app.UsageError(f"no parser {', '.join(unknown)}; there are {', '.join(known)}")
    crashes = run(
        {name: known[name] for name in options.parsers or known},
        epath.Path(options.output).absolute(),
        inputs=options.inputs,
        seed=options.seed,
        seconds=options.seconds,
        limit=options.limit,
    )
    sys.exit(crashes > 0)


if __name__ == "__main__":
    flags.DEFINE_integer("inputs", 100_000, "Inputs of each parser.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the inputs.")
    flags.DEFINE_float("seconds", 0.0, "Most seconds for each parser; 0: no limit.", 0.0)
    flags.DEFINE_float("limit", 10.0, "Seconds that one input may take.", 0.01)
    flags.DEFINE_list("parsers", [], "Parsers by name, such as labels; empty: all.")
    flags.DEFINE_string("output", "runs/fuzz", "Folder for fuzz.json and the inputs of crashes.")
    app.run(main)
