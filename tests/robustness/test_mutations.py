"""Every row of the list of defences fits the code, and the tool tells noticed from unnoticed mutations."""

import contextlib
import importlib
import sys

import pytest

from tests.robustness.defences import DEFENCES, Defence

mutations = pytest.importorskip("tests.robustness.mutations", exc_type=ImportError)


def test_faults_have_different_names():
    assert len({defence.fault for defence in DEFENCES}) == len(DEFENCES) > 50


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda row: row.fault.replace(" ", "-"))
def test_a_defence_can_be_removed_and_has_a_test(defence):
    found = mutations.mutations(defence)
    assert found, f"nothing of kind {defence.kind!r} about {defence.about} in {defence.function}"
    for path, operator, occurrence in found:
        changed = mutations.mutate_code((mutations.ROOT / path).read_text(), operator, occurrence)
        compile(changed, path, "exec")
        assert mutations.diff(path, operator, occurrence)
    file, _, name = defence.test.partition("::")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    assert hasattr(module, name) if name else any(n.startswith("test_") for n in dir(module))


CODE = """
import time
def f(x, y=True):
    if x:
        raise ValueError
    try:
        g(x)
    except (KeyError, OSError) as error:
        return [a.strip().lower() for a in x if a]
    with lock(x):
        return time.monotonic()
"""


@pytest.mark.parametrize(
    ("kind", "about", "changed"),
    [
        ("never", "x", ["    if False:"]),
        ("always", "a", ["        return [a.strip().lower() for a in x if True]"]),
        ("statement", "ValueError", ["        pass"]),
        ("statement", "g", ["        pass"]),
        ("return", "monotonic", ["        return None"]),
        ("except", "OSError", ["    except ():"]),
        ("with", "lock", ["    with memoryview(b''):"]),
        ("call", "strip", ["        return [a.lower() for a in x if a]"]),
        ("wall clock", "monotonic", ["        return time.time()"]),
        ("core/ReplaceTrueWithFalse", "y", ["def f(x, y=False):"]),
        ("never", "nothing", []),
    ],
)
def test_each_kind_removes_what_it_names(kind, about, changed, tmp_path, monkeypatch):
    (tmp_path / "code_to_change.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    monkeypatch.delitem(sys.modules, "code_to_change", raising=False)
    importlib.invalidate_caches()
    found = mutations.mutations(Defence("x", "code_to_change:", kind, about, ""))
    after = [mutations.mutate_code(CODE, operator, occurrence) for _, operator, occurrence in found]
    assert [
        line for text in after for line in text.splitlines() if line not in CODE.splitlines()
    ] == changed


@pytest.mark.e2e
def test_unnoticed_mutations_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "halves.py").write_text(
        "def half(x):\n    if not x:\n        return None\n    return 1 / x\n"
    )
    (tmp_path / "test_halves.py").write_text(
        "import halves\nimport pytest\n\n\ndef test_good():\n    assert halves.half(0) is None\n\n\n"
        "def test_idle():\n    assert halves.half(1)\n\n\ndef test_broken():\n    assert False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    rows = {}
    with contextlib.chdir(tmp_path):
        for test in ("good", "idle", "broken"):
            defence = Defence("zero", "halves:half", "never", "x", f"test_halves.py::test_{test}")
            rows[test] = mutations.try_defence(defence)
    results = {
        test: (row["passes"], row["mutations"], row["noticed"]) for test, row in rows.items()
    }
    assert results == {"good": (True, 1, 1), "idle": (True, 1, 0), "broken": (False, 0, 0)}
    assert "+    if False:" in rows["idle"]["survivors"][0]
    assert "if not x:" in (tmp_path / "halves.py").read_text()
