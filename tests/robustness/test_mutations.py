"""The list of defences fits the code, and a test that does not notice is told of."""

import ast
import pathlib

import pytest

from tests.robustness import mutations
from tests.robustness.mutations import DEFENCES, Defence


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: d.fault.replace(" ", "-"))
def test_each_is_in_the_code_and_has_a_test(defence):
    code = (mutations.ROOT / defence.file).read_text()
    changed = mutations.without(defence, code)
    assert changed != code
    ast.parse(changed)
    name, _, test = defence.test.partition("::")
    tests = (mutations.ROOT / name).read_text()
    assert f"def {test}(" in tests if test else "def test_" in tests


def test_code_that_has_changed_is_told_of():
    gone = Defence("x", "a.py", "if there:", "if False:", "test_a.py")
    with pytest.raises(ValueError, match=r"a.py: 0 times 'if there:', defence against x"):
        mutations.without(gone, "if it:")


def test_a_test_that_does_not_notice_is_told_apart(tmp_path):
    (tmp_path / "code_.py").write_text(
        "def half(x):\n    if not x:\n        return None\n    return 1 / x\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import code_ as code\n\n\ndef test_good():\n    assert code.half(0) is None\n\n\n"
        "def test_idle():\n    assert code.half(1)\n\n\n"
        "def test_left_out():\n    import pytest\n\n    pytest.skip('not here')\n"
    )
    found = mutations.look(
        [
            Defence("zero", "code_.py", "if not x:", "if False:", f"test_it.py::{name}")
            for name in ("test_good", "test_idle", "test_left_out")
        ],
        pathlib.Path(tmp_path),
    )
    assert [(row["with"], row["without"]) for row in found] == [
        ("passes", "fails"),
        ("passes", "passes"),
        ("skipped", "skipped"),
    ]
    assert "if not x:" in (tmp_path / "code_.py").read_text()
