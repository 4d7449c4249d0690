"""What systems, editors and downloads leave in folders is no clip; what users call their clips is."""

import pytest

from rdfer_jax.media import folders

LEFT = [
    "@eaDir", "@EADIR", "#recycle", "#snapshot", "@Recycle", "@__thumb", ".@__thumb", "@tmp", "~snapshot",
    ".AppleDouble", "._clip.mp4", ".DS_Store", "__MACOSX", ".Trashes", "Icon\r", "Network Trash Folder",
    "Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "$RECYCLE.BIN", "RECYCLER",
    "System Volume Information", "FOUND.000", "lost+found", ".git", ".svn", ".gitkeep", "__pycache__",
    ".ipynb_checkpoints", ".idea", "clip.mp4.part", "clip.mp4.crdownload", "clip.part", "clip.mp4.download",
    "~$list.xlsx", "~WRL0001.tmp", "#clip.mp4#", "clip.mp4~", ".clip.mp4.swp", "clip.mp4.!qB", "x.tmp",
    ".stfolder", ".nfs0001", ".zfs", ".~lock.list.ods#",
]  # fmt: skip
KEPT = [
    "clip.mp4", "happy", "#happy", "@home", "$money", "~happy", "part", "part 1", "tmp", "1.part.mp4",
    "download.mp4", "thumbs", "recycle", "MACOSX", "git", "happy#1.mp4", "a~b.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_by_others_is_passed_over(name):
    assert folders.is_housekeeping(name)


@pytest.mark.parametrize("name", KEPT)
def test_names_of_clips_and_classes_are_kept(name):
    assert not folders.is_housekeeping(name)


def test_the_kinds_of_entries_in_natural_order(tmp_path):
    for name in ("c10.mp4", "c2.AVI", "c.png", "notes.txt", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("frames.mp4", "@eaDir"):
        (tmp_path / name).mkdir()
    found = folders.contents(tmp_path)
    names = {kind: [path.name for path in getattr(found, kind)] for kind in vars(found)}
    assert names == {
        "videos": ["c2.AVI", "c10.mp4"],
        "pictures": ["c.png"],
        "folders": ["frames.mp4"],
        "others": ["notes.txt"],
        "passed_over": ["@eaDir", "Thumbs.db"],
    }
