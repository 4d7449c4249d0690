"""Fuzzes every parser of files from users with atheris, a coverage-guided fuzzer. Linux only.

    pip install -e '.[robustness]'
    python -m tests.robustness.fuzz --inputs=100000
    python -m tests.robustness.fuzz --inputs=1000000 --seconds=600 --parsers=labels,predictions

A parser must accept a damaged file, or refuse it with a documented error that names the file. All else is a
failure: another error, a crash, a hang, and, as far as Python's audit events show (not inside OpenCV), a
file opened outside the folder of the input, a new process, a connection, or an object from a pickle.

Each parser runs in a process of its own, whose inputs start from valid examples. Prints a table and writes
fuzz.json. With failures, exits with 1 and keeps the inputs: failure-* of what the parser did wrong, crash-*
and timeout-* of what ended the process (see log.txt). The corpus of each parser stays in its folder, and
the next run goes on from there.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import app, flags
from etils import epath
from tqdm import tqdm

from rdfer_jax import paths

if TYPE_CHECKING:
    from tests.robustness.parsers import Parser

ROOT = pathlib.Path(__file__).parents[2]
#: Number of failing inputs that are kept for each parser.
MAX_KEPT = 10
#: Longest error message, in characters.
MAX_MESSAGE = 20_000

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = (
    *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"),
    *("os.truncate", "os.chmod", "os.chown", "os.utime"),
)
_FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "os.exec"),
    *("socket.connect", "pickle.find_class", "ctypes.dlopen"),
)


class FailureError(Exception):
    """A parser broke its guarantee; the message says how."""


class Guard:
    """Records what a parser does outside the folder of its input, by Python's audit events.

    Attributes:
      events: descriptions of what was done in the last `watch`.
    """

    def __init__(self) -> None:
        self._folder: pathlib.Path | None = None
        # Modules that are imported when first needed may be read.
        self._modules = [
            pathlib.Path(p).resolve() for p in (sys.prefix, sys.base_prefix, *sys.path)
        ]
        self.events: list[str] = []
        sys.addaudithook(self._hook)  # there is no way to remove a hook

    @contextlib.contextmanager
    def watch(self, folder: epath.Path) -> Iterator[None]:
        """Records events in this context; what happens in the folder is allowed."""
        folder = pathlib.Path(folder).resolve()
        self.events, self._folder = [], folder
        try:
            yield
        finally:
            self._folder = None

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self._folder is None:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            is_write = isinstance(args[2], int) and bool(args[2] & _WRITE_FLAGS)
            self._check_path("writes" if is_write else "reads", args[0])
        elif event in _CHANGES:
            # The target of a symbolic link is only text.
            for path in args[event == "os.symlink" : 2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._check_path(event, path)
        elif event in _FORBIDDEN:
            self.events.append(f"{event} {args[:2]!r:.200}")

    def _check_path(self, action: str, path: Any) -> None:
        place = pathlib.Path(os.fsdecode(path)).resolve()
        is_module = action == "reads" and any(map(place.is_relative_to, self._modules))
        if not is_module and not place.is_relative_to(self._folder):
            self.events.append(f"{action} {place}")


def check(parser: "Parser", folder: epath.Path, data: bytes, guard: Guard) -> str:
    """Lets a parser read a file with this content, and returns "accepted" or "refused".

    Raises:
      FailureError: the parser broke its guarantee.
    """
    path, outcome = folder / parser.file, "accepted"
    path.write_bytes(data)
    try:
        with warnings.catch_warnings(), guard.watch(folder):
            warnings.simplefilter("ignore")
            parser.read(path)
    except parser.errors as error:
        outcome, message = "refused", str(error)
        if (parser.named or parser.file) not in message:
            raise FailureError(f"error without {parser.named or parser.file}: {message}") from error
        if len(message) > MAX_MESSAGE:
            raise FailureError(f"error of {len(message)} characters: {message}") from error
    except AssertionError as error:
        raise FailureError("accepted invalid values") from error
    except Exception as error:
        raise FailureError(f"{type(error).__name__}: {error}") from error
    if guard.events:
        raise FailureError("; ".join(guard.events))
    return outcome


def _mutate_archive(data: bytes, max_size: int, seed: int) -> bytes:
    """Lets atheris damage one member of an archive, or, where there is none, the bytes."""
    import atheris

    from tests.robustness import parsers

    sample = random.Random(seed)
    try:
        members = parsers.unpack(data)
    except Exception:  # any damage is possible
        members = []
    if not members or sample.random() < 0.2:
        return atheris.Mutate(data, max_size)
    at = sample.randrange(len(members))
    name, content = members[at]
    if sample.random() < 0.1:
        name = sample.choice((members[0][0], "../x.npy", "/x", "split.npy", "x", "é"))
    members[at] = (name, atheris.Mutate(content, max(max_size - len(data) + len(content), 1)))
    return parsers.pack(members)[:max_size]


def fuzz_here(
    parser: "Parser", folder: epath.Path, *, inputs: int, seconds: float, seed: int, limit: int
) -> None:
    """Fuzzes a parser in this process, and ends the process. The results are in folder's result.json.

    Args:
      parser: what reads the inputs.
      folder: for results, the corpus, and failing inputs.
      inputs: number of inputs.
      seconds: time after which fuzzing ends; 0 for no limit.
      seed: of the inputs.
      limit: seconds after which an input counts as a hang.
    """
    import atheris

    from tests.robustness import parsers

    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in parser.examples:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    words = [
        "".join(f"\\x{byte:02x}" for byte in text.encode()) for text in parsers.BAD_TEXTS if text
    ]
    (folder / "dictionary.txt").write_text("".join(f'"{w}"\n' for w in words if len(w) < 4000))
    result: dict[str, Any] = {"accepted": 0, "refused": 0, "failures": [], "slowest_ms": 0.0}
    # In memory where possible: every input is a file.
    memory = pathlib.Path("/dev/shm")
    scratch = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
    place, guard, start = epath.Path(scratch.name), Guard(), time.monotonic()

    def read(data: bytes) -> None:
        began = time.perf_counter()
        try:
            result[check(parser, place, data, guard)] += 1
        except FailureError as error:
            file = f"failure-{len(result['failures'])}-{parser.file}"
            if len(result["failures"]) < MAX_KEPT:
                (folder / file).write_bytes(data)
            result["failures"].append(f"{file}: {error}"[:1000])
        result["slowest_ms"] = max(result["slowest_ms"], 1000 * (time.perf_counter() - began))
        count = result["accepted"] + result["refused"] + len(result["failures"])
        if count >= inputs or (seconds and time.monotonic() - start > seconds):
            result.update(inputs=count, seconds=time.monotonic() - start)
            (folder / "result.json").write_text(json.dumps(result))
            scratch.cleanup()
            os._exit(0)

    options = [f"-seed={seed + 1}", f"-timeout={limit}", f"-artifact_prefix={folder}/"]
    options += [f"-dict={folder / 'dictionary.txt'}", "-max_len=65536", "-rss_limit_mb=4096"]
    mutator = {"custom_mutator": _mutate_archive} if parser.is_archive else {}
    atheris.Setup([sys.argv[0], *options, str(corpus)], read, **mutator)
    atheris.Fuzz()


def fuzz(name: str, folder: epath.Path, words: Sequence[str]) -> dict[str, Any]:
    """Fuzzes a parser in a process of its own, with words for its command line; returns the results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    with open(folder / "log.txt", "wb") as log:
        done = subprocess.run(
            [*(sys.executable, "-m", "tests.robustness.fuzz", f"--worker={name}"), *words],
            stdout=log, stderr=log, cwd=ROOT,
        )  # fmt: skip
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    failure = f"the process ended with status {done.returncode}: see {folder / 'log.txt'}"
    return {"accepted": 0, "refused": 0, "inputs": 0, "slowest_ms": 0.0, "failures": [failure]}


def main(argv: Sequence[str]) -> None:
    """Fuzzes the chosen parsers, prints a table and writes fuzz.json."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    options, output = flags.FLAGS, epath.Path(flags.FLAGS.output).absolute()
    if options.worker:
        import atheris

        with atheris.instrument_imports(include=["data", "rdfer_jax"]):
            from tests.robustness.parsers import parsers
        names = ("inputs", "seconds", "seed", "limit")
        folder = output / options.worker.replace(" ", "_")
        fuzz_here(
            parsers()[options.worker], folder, **{name: options[name].value for name in names}
        )
    from benchmarks import harness
    from tests.robustness.parsers import parsers

    if unknown := set(options.parsers) - parsers().keys():
        raise app.UsageError(f"no parser {', '.join(unknown)}; expected {', '.join(parsers())}")
    results = {}
    for name in tqdm(options.parsers or list(parsers()), unit="parser", disable=None):
        results[name] = fuzz(name, output / name.replace(" ", "_"), sys.argv[1:])
    columns = ("inputs", "accepted", "refused", "failures", "slowest_ms")
    rows = [["parser", *columns]]
    for name, result in results.items():
        values = result | {
            "failures": len(result["failures"]),
            "slowest_ms": f"{result['slowest_ms']:.1f}",
        }
        rows.append([name, *(str(values[column]) for column in columns)])
    print(f"{harness.hardware()}\n\n{harness.table(rows)}")
    for name, result in results.items():
        for failure in result["failures"][:MAX_KEPT]:
            print(f"{name}: {failure[:300]}")
    report = {
        "hardware": harness.hardware(),
        "commit": harness.commit(),
        "seed": options.seed,
        "parsers": results,
    }
    (output / "fuzz.json").write_text(harness.to_json(report))
    sys.exit(any(result["failures"] for result in results.values()))


if __name__ == "__main__":
    flags.DEFINE_integer("inputs", 100_000, "Inputs for each parser.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Seed of the inputs.", lower_bound=0)
    flags.DEFINE_float("seconds", 0.0, "Time limit for each parser, in seconds; 0: none.", 0.0)
    flags.DEFINE_integer("limit", 10, "Time limit for one input, in seconds.", lower_bound=1)
    flags.DEFINE_list("parsers", [], "Names of parsers, such as labels; empty: all.")
    paths.DEFINE_path("output", "runs/fuzz", "Folder for fuzz.json, inputs and logs.")
    flags.DEFINE_string(
        "worker", "", "Used by the program itself: the parser to fuzz in this process."
    )
    app.run(main)
