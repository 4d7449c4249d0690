"""Videos that break off: a build names all of them, counts what it stores of them, and check lists it."""

import functools

import ffmpeg
import pytest
import raw_trees

from data import check, recorded
from data.video_folder import video_folder_dataset_builder as video_folder


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "raw"
    raw_trees.make_video_folder(root, clips_per_class=3, frames=20, size=32)
    return root


def break_off(path, share):
    """Replaces a clip by a video whose index comes first, of which only a part is there."""
    whole = path.with_name("whole.mp4")
    pictures = "testsrc2=s=64x48:r=25:d=2"
    ffmpeg.run("-f", "lavfi", "-i", pictures, "-c:v", "mpeg4", "-movflags", "+faststart", whole)
    data = whole.read_bytes()
    whole.unlink()
    path.write_bytes(data[: int(share * len(data))])


def test_a_build_that_fails_names_every_bad_clip(tree, tmp_path, monkeypatch):
    bad = ("calm/clip1.mp4", "glad/clip1.mp4", "tense/clip1.mp4")
    for clip in bad:
        break_off(tree / clip, 0.3)
    monkeypatch.setattr(recorded, "shards", functools.partial(recorded.shards, limit=40))
    with pytest.raises(recorded.MissingClipsError, match="3 of 9 clips") as error:
        raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
    for clip in bad:
        assert f"{clip}: holds" in str(error.value)


def test_a_damaged_clip_is_stored_counted_and_listed(tree, tmp_path, capsys):
    break_off(tree / "glad/clip1.mp4", 0.7)
    builder = raw_trees.build(video_folder, tmp_path, source_dir=str(tree))
    (damaged,) = builder.info.metadata["damaged_clips"]
    assert damaged.startswith("glad/clip1.mp4: holds ") and "of the 50 frames" in damaged
    assert f"stored as far as they can be read: 1\n  {damaged}" in builder.summary()
    stored = raw_trees.read(builder, "train") | raw_trees.read(builder, "test")
    assert 25 < len(stored["glad/clip1.mp4"]["frames"]) < 40
    found = check.check_built("video_folder", tmp_path, "small")
    assert found.problems["clips were damaged or log footage when it was built"] == [damaged]
    raw = check.check_raw("video_folder", {"source_dir": str(tree)})
    (problem,) = raw.problems["clips are missing, unreadable, damaged or log footage"]
    assert "glad/clip1.mp4: holds" in problem
