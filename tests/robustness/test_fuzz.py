"""Inputs drawn at random: parsers accept or refuse them, and the fuzzer sees what would be a crash."""

import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from tests.robustness import fuzz

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    return fuzz.Watch(epath.Path(tmp_path_factory.mktemp("watched") / "folder"))


@pytest.fixture
def folder(watch):
    path = epath.Path(watch._folder)
    path.mkdir(exist_ok=True)
    yield path
    path.rmtree()


@pytest.mark.parametrize("name", fuzz.parsers())
def test_a_parser_accepts_or_refuses_whatever_it_reads(name, watch, folder):
    found = fuzz.fuzz(name, fuzz.parsers()[name], watch, folder, inputs=300, limit=5.0)
    assert not found.crashes, found.crashes[0]
    assert found.inputs == found.accepted + found.refused == 300
    # Damage that is always refused, or never, would test little.
    assert found.accepted > 5 and (found.refused > 50 or name == "mafw votes")


def test_equal_seeds_draw_equal_inputs_and_others_do_not():
    for name, parser in fuzz.parsers().items():
        draws = {
            seed: [fuzz.mutated(parser, name, seed, number) for number in range(20)]
            for seed in (0, 1)
        }
        assert draws[0] == [fuzz.mutated(parser, name, 0, number) for number in range(20)]
        assert draws[0] != draws[1] and len(set(draws[0])) > 10


def test_equal_seeds_draw_equal_inputs_at_any_time():
    before = {
        name: [parser.examples, fuzz.mutated(parser, name, 0, 1)]
        for name, parser in fuzz.parsers().items()
    }
    time.sleep(2.1)  # archives write down the time, to two seconds
    for name, parser in fuzz.parsers().items():
        assert before[name] == [parser.examples, fuzz.mutated(parser, name, 0, 1)], name


class _Harm:
    def __reduce__(self):
        return os.getcwd, ()


def _hide_a_wait(path):
    try:
        time.sleep(60)
    except Exception:
        return


def _name_no_file(path):
    raise ValueError("something is wrong")


def _say_too_much(path):
    raise ValueError(f"{path}: {path.read_bytes().decode() * 10_000}")


def _slip(path):
    return {}["x"]


def _accept(path):
    raise AssertionError("label 8")


def _new():
    return str(time.monotonic_ns())


def _unpickle(path):
    return pickle.loads(pickle.dumps(_Harm()))


BROKEN = {
    "KeyError: 'x'": _slip,
    "accepted what it must not": _accept,
    "a message that names no x.txt": _name_no_file,
    "a message of ": _say_too_much,
    "no answer after 0.1 seconds": _hide_a_wait,
    "writes ": lambda path: (path.parent.parent / "out.txt").write_text("x"),
    f"reads {os.devnull}": lambda path: open(os.devnull, "rb").close(),
    "os.mkdir ": lambda path: (path.parent.parent / "out").mkdir(exist_ok=True),
    "os.remove ": lambda path: (path.parent.parent / "out.txt").unlink(missing_ok=True),
    "os.symlink ": lambda path: pathlib.Path(path.parent.parent, _new()).symlink_to(path),
    "os.rename ": lambda path: path.rename(path.parent.parent / _new()),
    "subprocess.Popen ": lambda path: subprocess.run(["true"], check=True),
    "pickle.find_class ": _unpickle,
}


def _parser(read, harmless=1):
    """A parser that does its harm from the second file on: the first is the valid one."""
    calls = []

    def whole(path):
        calls.append(path)
        return read(path) if len(calls) > harmless else None

    return fuzz.Parser("x.txt", [b"a,b\n"], whole, fuzz.damage_text)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_parser_is_seen(what, watch, folder):
    before = signal.getsignal(signal.SIGALRM)
    found = fuzz.fuzz("x", _parser(BROKEN[what]), watch, folder, inputs=3, limit=0.1)
    assert found.inputs == 3 and not found.accepted and not found.refused
    assert [number for number, _ in found.crashes] == [0, 1, 2]
    assert all(said.startswith(what) for _, said in found.crashes)
    assert signal.getsignal(signal.SIGALRM) == before


def test_files_in_the_folder_are_the_parsers_own(watch, folder):
    def use(path):
        (path.parent / "more").mkdir(exist_ok=True)
        (path.parent / "more/x").write_bytes(path.read_bytes())
        pathlib.Path(path.parent, _new()).symlink_to("/")

    found = fuzz.fuzz("x", _parser(use), watch, folder, inputs=3)
    assert found.accepted == 3 and not found.crashes


def test_it_stops_in_time(watch, folder):
    slow = _parser(lambda path: time.sleep(0.05))
    found = fuzz.fuzz("x", slow, watch, folder, inputs=1000, seconds=0.2)
    assert 1 <= found.inputs < 10 and found.slowest_ms >= 50 and found.seconds < 2


def test_crashes_are_written_with_their_inputs(tmp_path, capsys):
    known = {"good one": _parser(lambda path: None), "bad one": _parser(_slip)}
    assert fuzz.run(known, epath.Path(tmp_path / "out"), inputs=12, seed=7) == 12
    report = json.loads((tmp_path / "out/fuzz.json").read_text())
    good, bad = (report["parsers"][name] for name in known)
    assert good | {"seconds": 0, "slowest_ms": 0} == {
        "inputs": 12, "accepted": 12, "refused": 0, "seconds": 0, "slowest_ms": 0, "crashes": 0,
        "kept": [],
    }  # fmt: skip
    assert bad["crashes"] == 12 and len(bad["kept"]) == fuzz.KEPT and report["seed"] == 7
    for kept in bad["kept"]:
        data = (tmp_path / "out" / kept["file"]).read_bytes()
        assert data == fuzz.mutated(known["bad one"], "bad one", 7, kept["number"])
        assert kept["what"] == "KeyError: 'x'"
    said = capsys.readouterr().out
    assert "| good one | 12 | 12 | 0 | 0 |" in said and "| bad one | 12 | 0 | 0 | 12 |" in said
    assert "bad one, input 0: KeyError: 'x'" in said


@pytest.mark.parametrize(("parser", "status"), [("labels", 0), ("nothing", 1)])
def test_the_command_says_by_its_status_whether_all_went_well(tmp_path, parser, status):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.robustness.fuzz", "--inputs=20", f"--parsers={parser}"),
            f"--output={tmp_path}",
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("| labels | 20 |" in done.stdout) == (tmp_path / "fuzz.json").exists() == (status == 0)
