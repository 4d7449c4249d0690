"""Files that are written as a whole or not at all."""

import pytest
from etils import epath

from rdfer_jax import atomic


@pytest.fixture(params=["there", "new"])
def folder(request, tmp_path):
    """A folder with a former file, or none."""
    if request.param == "there":
        (tmp_path / "a.json").write_text("former")
    return epath.Path(tmp_path)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_a_failure_halfway_all_is_as_it_was(folder, error):
    before = contents(folder)
    with pytest.raises(error, match="disk"), atomic.replacement(folder / "a.json") as part:
        part.write_text("hal")
        assert contents(folder) == before | {part.name: "hal"}
        raise error("disk")
    assert contents(folder) == before


def test_after_a_failure_of_the_last_step_all_is_as_it_was(folder, monkeypatch):
    before = contents(folder)

    def full(*_):
        raise OSError("disk")

    monkeypatch.setattr(type(folder), "replace", full)
    with pytest.raises(OSError, match="disk"), atomic.replacement(folder / "a.json") as part:
        part.write_text("whole")
    assert contents(folder) == before


def test_nothing_but_the_new_file_is_left(folder):
    with atomic.replacement(folder / "a.json", tag="1") as part:
        part.write_text("one")
        with atomic.replacement(folder / "a.json", tag="2") as other:
            other.write_text("another")
        assert (folder / "a.json").read_text() == "another"
    assert contents(folder) == {"a.json": "one"}
