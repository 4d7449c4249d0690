"""How the program ends."""

import logging
import types
import weakref

import pytest

from rdfer_jax import config as config_lib
from rdfer_jax import main
from rdfer_jax.training.preemption import PreemptedError


class Reader:
    """Stands for what reads the data, with shared memory that has to be given back before Python's end."""


ENDS = {
    "SIGTERM": (lambda: PreemptedError("stopped", 0), 0),
    "Ctrl-C in training": (lambda: PreemptedError("stopped", 130), 130),
    "Ctrl-C": (KeyboardInterrupt, 130),
    "the user's error": (lambda: ValueError("no such split"), "error: no such split"),
    "a reader killed": (lambda: OSError("Worker process was terminated"), "error: a process that"),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_reads_is_gone_before_the_program_ends(monkeypatch, name):
    create, code = ENDS[name]
    readers = []

    def run(_):
        reader = Reader()
        readers.append(weakref.ref(reader))
        raise create()

    monkeypatch.setattr(main, "run", run)
    monkeypatch.setattr(main, "MODE", types.SimpleNamespace(value="train"))
    monkeypatch.setattr(main, "CONFIG", types.SimpleNamespace(value=config_lib.default()))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # it would take pytest's handlers
    with pytest.raises(SystemExit) as end:
        main.main(["rdfer"])
    assert readers[0]() is None
    assert str(end.value.code).startswith(str(code))
