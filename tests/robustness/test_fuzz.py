"""Parsers accept or refuse damaged files, and the fuzzer notices a parser that does anything else."""

import collections
import json
import os
import pathlib
import pickle
import subprocess
import sys
import time

import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robustness import fuzz
from tests.robustness.parsers import BAD_TEXTS, Parser, pack, parsers, unpack

ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "latin-1", "gb18030", "utf-7")
LINE_ENDS = (b"\r\n", b"\r", b"\n\n", b"\v", "\u2028".encode(), b"\0")


@st.composite
def edited(draw, data):
    """Replaces, removes, repeats and inserts bytes, mostly whole fields and lines."""
    for _ in range(draw(st.integers(1, 3))):
        bounds = [0, len(data), *(i for i, byte in enumerate(data[:1000]) if byte in b",\t\n /_")]
        start, stop = sorted(
            draw(st.sampled_from(bounds) | st.integers(0, len(data))) for _ in "12"
        )
        piece = st.sampled_from([text.encode() for text in BAD_TEXTS]) | st.binary(max_size=4)
        action = draw(
            st.sampled_from(("insert", "replace", "repeat", "cut", "encode", "line ends"))
        )
        if action == "insert":
            data = data[:start] + draw(piece) + data[start:]
        elif action == "replace":
            data = data[:start] + draw(piece) + data[min(stop, start + 20) :]
        elif action == "repeat":
            data = data[:stop] + data[start:]
        elif action == "cut":
            data = data[:start]
        elif action == "encode":
            data = data.decode("utf-8", "replace").encode(
                draw(st.sampled_from(ENCODINGS)), "replace"
            )
        else:
            data = data.replace(b"\n", draw(st.sampled_from(LINE_ENDS)))
    return data


@st.composite
def damaged(draw, parser):
    """Returns a damaged example of the file that a parser reads."""
    data = draw(st.sampled_from(parser.examples))
    if not parser.is_archive or draw(st.integers(0, 9)) == 0:
        return draw(edited(data))
    members = unpack(data)
    at = draw(st.integers(0, len(members) - 1))
    name, content = members[at]
    if draw(st.integers(0, 4)) == 0:
        name = draw(st.sampled_from((members[0][0], "../x.npy", "/x", "split.npy", "x", "é", "")))
    else:
        # The end of an array holds its values, where damage may go unnoticed.
        head = draw(st.sampled_from((0, min(128, len(content)))))
        content = content[:head] + draw(edited(content[head:]))
    members[at] = (name, content)
    return pack(members)


@pytest.fixture(scope="module")
def guard():
    return fuzz.Guard()


@pytest.mark.slow
@pytest.mark.parametrize("name", parsers())
@pytest.mark.timeout(300)
def test_a_parser_accepts_or_refuses_every_damaged_file(name, guard, tmp_path):
    parser, outcomes = parsers()[name], collections.Counter()

    @settings(max_examples=100, suppress_health_check=list(HealthCheck), database=None)
    @given(data=damaged(parser))
    def read(data):
        outcomes[fuzz.check(parser, epath.Path(tmp_path), data, guard)] += 1

    read()
    # Damage that is always refused, or never, would test little.
    assert outcomes["accepted"] > 5 and (outcomes["refused"] > 30 or name == "mafw votes")


@pytest.mark.parametrize("name", parsers())
def test_valid_examples_are_accepted(name, guard, tmp_path):
    parser = parsers()[name]
    assert parser.examples == parsers()[name].examples
    for data in parser.examples:
        assert fuzz.check(parser, epath.Path(tmp_path), data, guard) == "accepted"


class _Unpickled:
    def __reduce__(self):
        return os.getcwd, ()


def _raise_value_error(text):
    raise ValueError(text)


def _fail_an_assertion(path):
    raise AssertionError("label 8")


BROKEN_PARSERS = {
    "KeyError: 'x'": lambda path: {}["x"],
    "accepted invalid values": _fail_an_assertion,
    "error without x.txt: wrong": lambda path: _raise_value_error("wrong"),
    "error of ": lambda path: _raise_value_error(f"{path}: {'x' * 20_000}"),
    "writes ": lambda path: (path.parent.parent / "out.txt").write_text("x"),
    f"reads {os.devnull}": lambda path: open(os.devnull, "rb").close(),
    "os.mkdir ": lambda path: (path.parent.parent / "out").mkdir(),
    "os.remove ": lambda path: (path.parent.parent / "out.txt").unlink(missing_ok=True),
    "os.symlink ": lambda path: pathlib.Path(path.parent.parent, "link").symlink_to(path),
    "os.rename ": lambda path: path.rename(path.parent.parent / "moved"),
    "subprocess.Popen ": lambda path: subprocess.run(["true"], check=True),
    "pickle.find_class ": lambda path: pickle.loads(pickle.dumps(_Unpickled())),
}


@pytest.mark.parametrize("failure", BROKEN_PARSERS)
def test_a_broken_parser_is_noticed(failure, guard, tmp_path):
    folder = epath.Path(tmp_path / "inputs")
    folder.mkdir()
    parser = Parser("x.txt", [b"a,b\n"], BROKEN_PARSERS[failure])
    with pytest.raises(fuzz.FailureError) as error:
        fuzz.check(parser, folder, b"a", guard)
    assert str(error.value).startswith(failure)


def test_a_parser_may_write_to_the_folder_of_its_input(guard, tmp_path):
    def read(path):
        (path.parent / "more").mkdir()
        (path.parent / "more/x").write_bytes(path.read_bytes())
        pathlib.Path(path.parent, "link").symlink_to("/")

    parser = Parser("x.txt", [b"a"], read)
    assert fuzz.check(parser, epath.Path(tmp_path), b"a", guard) == "accepted"


def run(*words):
    return subprocess.run(
        [sys.executable, *words], cwd=fuzz.ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.e2e
def test_the_command_fuzzes_with_atheris(tmp_path):
    pytest.importorskip("atheris")
    words = ("-m", "tests.robustness.fuzz", f"--output={tmp_path}", "--inputs=500")
    done = run(*words, "--parsers=labels,predictions")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "fuzz.json").read_text())["parsers"]
    for name in ("labels", "predictions"):
        assert report[name]["inputs"] == 500 == report[name]["accepted"] + report[name]["refused"]
        assert report[name]["refused"] > 50 and not report[name]["failures"]
    assert run(*words, "--parsers=nothing").returncode == 1


@pytest.mark.e2e
@pytest.mark.parametrize(
    "harm", ["raise KeyError('x')", "time.sleep(60)", "os.kill(os.getpid(), 11)"]
)
def test_atheris_keeps_an_input_that_fails_hangs_or_crashes(harm, tmp_path):
    pytest.importorskip("atheris")
    code = f"""
import os, sys, time
from etils import epath
from tests.robustness import fuzz, parsers

def read(path):
    if b"e" in path.read_bytes()[1:]:
        {harm}

parser = parsers.Parser("x.txt", [b"ab"], read)
fuzz.fuzz_here(parser, epath.Path({str(tmp_path)!r}), inputs=3000, seconds=0, seed=0, limit=1)
"""
    start = time.monotonic()
    done = run("-c", code)
    assert time.monotonic() - start < 100
    prefix = {"r": "failure-0-x.txt", "t": "timeout-*", "o": "crash-*"}[harm[0]]
    kept = list(tmp_path.glob(prefix))
    assert kept and b"e" in kept[0].read_bytes(), done.stderr
    if harm.startswith("raise"):
        result = json.loads((tmp_path / "result.json").read_text())
        assert result["inputs"] == 3000 and "failure-0-x.txt: KeyError: 'x'" in result["failures"]
    else:
        assert done.returncode and not (tmp_path / "result.json").exists()
