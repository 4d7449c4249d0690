"""The page of an audit with many clips: every action is measured in a browser."""

import pytest
from etils import epath

from experiments import audit_page, pictures
from rdfer_jax.labels import page as page_lib


@pytest.mark.browser
def test_every_action_is_measured(tmp_path):
    path = page_lib.write(
        tmp_path / "audit.html", audit_page.clips(60, 5), audit_page.CLASSES, "Random clips"
    )
    try:
        found = audit_page.measure(epath.Path(path), repeats=2)
    except pictures.BrowserNotFoundError as error:
        pytest.skip(str(error))
    assert {"open", "filter", "search", "j: next clip", "z: nothing"} <= set(found)
    assert all(0 < ms < pictures.PATIENCE for times in found.values() for ms in times)
    assert len(found["filter"]) == 4 and len(found["open"]) == 3
    table = audit_page.table(found)
    assert table.count("\n") == len(found) + 1
