"""Video files are read as a player shows them, and written so that browsers play them."""

import itertools
from fractions import Fraction

import av
import cv2
import mp4
import numpy as np
import pytest
import raw_trees
from etils import epath

from rdfer_jax.media import video
from rdfer_jax.media.files import MediaError
from rdfer_jax.media.sources import VideoFile
from rdfer_jax.media.video import VideoReader, VideoWriter


def write(path, frames=20, fps=25, size=64):
    raw_trees.write_video(path, frames=frames, label=1, size=size, fps=fps)
    return VideoFile(epath.Path(path))


def levels(frames):
    """How light the top of each frame is: it rises with time."""
    return [float(f.image[: f.image.shape[0] // 5].mean()) for f in frames]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mov"])
def test_a_file_gives_its_frames_and_times(tmp_path, suffix):
    found = list(write(tmp_path / f"a{suffix}", frames=20, fps=25).frames())
    assert [f.number for f in found] == list(range(20))
    np.testing.assert_allclose([f.time for f in found], np.arange(20) / 25, atol=2e-3)
    assert all(np.diff(levels(found)) > 0)
    assert {(f.image.shape, f.image.dtype.name) for f in found} == {((64, 64, 3), "uint8")}


def test_frames_are_rgb(tmp_path):
    drawn = raw_trees.draw_frame(5, 20, 1, 64)  # blue first
    read = list(write(tmp_path / "a.avi").frames())[5].image
    at = (40, 64 // 4 + (64 // 14) % 32)  # inside the ellipse
    assert np.abs(read[at].astype(int) - drawn[at][::-1].astype(int)).max() < 20
    assert np.ptp(drawn[at]) > 40


@pytest.mark.parametrize("fps", [30.0, 24.0, 10.0])
@pytest.mark.parametrize("most", [10.0, 7.0])
def test_at_most_so_many_frames_a_second_are_kept_evenly(tmp_path, fps, most):
    source = write(tmp_path / "a.mp4", frames=60, fps=fps)
    everything = {f.number: f for f in source.frames()}
    kept = list(source.frames(most))
    slots = np.floor(np.arange(60) / fps * most + 1e-6)
    expected = [0, *(np.flatnonzero(np.diff(slots)) + 1).tolist()]
    assert [f.number for f in kept] == expected
    assert len(kept) <= most * 60 / fps + 1
    for frame in kept:
        np.testing.assert_array_equal(frame.image, everything[frame.number].image)


def test_a_video_that_a_phone_has_turned_is_upright(tmp_path):
    plain = write(tmp_path / "a.mp4")
    before = next(iter(plain.frames())).image[:, :48]
    path = tmp_path / "b.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, :16] = 255  # a bar on the left
    for _ in range(5):
        writer.write(picture)
    writer.release()
    mp4.turn(path)
    after = next(iter(VideoFile(path).frames())).image
    assert before.shape == (64, 48, 3) == after.shape
    # Turned clockwise, the left goes to the top.
    assert after[:12].mean() > 200 > 50 > after[20:].mean()


def test_a_variable_frame_rate_shows_in_the_times(tmp_path):
    path = tmp_path / "a.mp4"
    write(path, frames=20, fps=25)
    mp4.hesitate(path, first=10, factor=5)
    times = [f.time for f in VideoFile(path).frames()]
    expected = np.concatenate([np.arange(10) / 25, 10 / 25 + np.arange(10) * 5 / 25])
    np.testing.assert_allclose(times, expected, atol=2e-3)
    kept = [f.number for f in VideoFile(path).frames(10.0)]
    assert kept == [0, 3, 5, 8, *range(10, 20)]


def test_a_video_that_ends_before_it_says_is_told(tmp_path):
    whole = write(tmp_path / "whole.avi", frames=40)
    data = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    assert len(list(whole.frames())) == 40 and whole.damage == ""
    source = VideoFile(tmp_path / "cut.avi")
    read = [len(list(source.frames())) for _ in range(2)]
    assert 10 < read[0] == read[1] < 30
    assert source.damage == f"holds {read[0]} of the 40 frames that it declares"


def encode(
    path, images, codec="libx264", *, times=None, aspect=None, pix_fmt="yuv420p", options=()
):
    """Writes uint8 [T, H, W, 3], RGB; `times` in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=dict(options))
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = pix_fmt
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def ramp(frames=12, height=48, width=64):
    """Frames of one gray each, lighter from frame to frame."""
    gray = np.linspace(30, 220, frames).round().astype(np.uint8)
    return np.broadcast_to(gray[:, None, None, None], (frames, height, width, 3)).copy()


@pytest.mark.parametrize("kept", [0.0, 30.0])
def test_times_rounded_to_milliseconds_lose_no_frame(tmp_path, kept):
    times = [round(1000 * i / 30) for i in range(12)]
    encode(tmp_path / "a.mkv", ramp(), times=times)
    found = list(VideoFile(epath.Path(tmp_path / "a.mkv")).frames(kept))
    np.testing.assert_allclose([f.time for f in found], np.array(times) / 1000, atol=1e-6)


def test_a_container_that_declares_no_number_is_not_short(tmp_path):
    times = [*range(0, 3000, 300), *range(3000, 3050, 25)]  # far from an even rate
    encode(tmp_path / "a.mkv", ramp(), times=times)
    with VideoReader(epath.Path(tmp_path / "a.mkv")) as reader:
        assert reader.declared == 0 and reader.expected > 1
        assert len(list(reader.frames())) == 12
        assert reader.problem() == ""


def test_pixels_that_are_not_square_are_stretched_to_the_shape_that_is_shown(tmp_path):
    images = ramp()
    images[:, :, 32:] = 255 - images[:, :, 32:]
    for aspect, width in ((Fraction(2), 128), (Fraction(1, 2), 32), (Fraction(16, 15), 68)):
        encode(tmp_path / "a.mp4", images, aspect=aspect)
        found = list(VideoFile(epath.Path(tmp_path / "a.mp4")).frames())
        assert {f.image.shape for f in found} == {(48, width, 3)}
        assert np.abs(found[0].image[:, : width // 2 - 6].astype(int) - images[0, 0, 0]).max() < 9


def test_interlaced_frames_are_deinterlaced(tmp_path):
    # A bar moves; every frame holds two moments, one in the even and one in the odd rows.
    images = np.full((20, 96, 96, 3), 40, np.uint8)
    for i in range(20):
        for field in (0, 1):
            left = 4 * i + 2 * field
            images[i, field::2, left : left + 16] = 200
    options = {"flags": "+ildct+ilme", "top": "1", "qscale": "2"}
    encode(tmp_path / "a.mpg", images, "mpeg2video", options=options.items())
    with VideoReader(epath.Path(tmp_path / "a.mpg")) as reader:
        assert all(frame.interlaced_frame for frame in reader._decoded())
    found = list(VideoFile(epath.Path(tmp_path / "a.mpg")).frames())
    assert len(found) == 20
    np.testing.assert_allclose([f.time for f in found], np.arange(20) / 25, atol=2e-3)
    for frame in found[2:-2]:
        rows = frame.image[16:80].astype(int)
        comb = np.abs(rows[1:] - rows[:-1]).mean()
        assert comb < 0.3 * np.abs(np.diff(images[frame.number, 16:80].astype(int), axis=0)).mean()
    again = list(VideoFile(epath.Path(tmp_path / "a.mpg")).frames())
    for one, two in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.image, two.image)


def test_frames_that_change_their_size_are_scaled_to_the_first(tmp_path):
    parts = []
    for size in (64, 96):
        encode(tmp_path / "part.ts", ramp(6, size, size), "mpeg2video")
        parts.append((tmp_path / "part.ts").read_bytes())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    found = list(VideoFile(epath.Path(tmp_path / "a.ts")).frames())
    assert len(found) > 8 and {f.image.shape for f in found} == {(64, 64, 3)}
    assert all(np.diff([f.time for f in found]) > 0)


def test_damage_in_the_middle_is_passed_over_and_reported(tmp_path):
    encode(tmp_path / "a.avi", ramp(40), "mjpeg", pix_fmt="yuvj420p")
    data = bytearray((tmp_path / "a.avi").read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"]
    for at, after in itertools.pairwise(starts[10:15]):
        end = min(at + 600, after - 8)  # before the header of the next frame
        data[at:end] = bytes(end - at)
    (tmp_path / "a.avi").write_bytes(data)
    source = VideoFile(epath.Path(tmp_path / "a.avi"))
    assert len(list(source.frames())) == 36
    assert source.damage == "damaged: 4 of 40 frames cannot be decoded"


@pytest.mark.parametrize("name", ["50%02d.mp4", "a:b.mp4", "http:x.mp4", "caf\udce9.mp4", "-i.mp4"])
def test_any_name_is_the_name_of_a_file(tmp_path, name, monkeypatch):
    write(tmp_path / "a.mp4", frames=3)
    try:
        (tmp_path / "a.mp4").rename(tmp_path / name)
    except OSError:
        pytest.skip("a file system that has no such names")
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoFile(epath.Path(name)).frames())) == 3
    assert len(list(VideoFile(epath.Path(tmp_path) / name).frames())) == 3


def test_metadata_in_another_encoding_does_not_matter(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "caf_"
        stream = container.add_stream("mjpeg", rate=25)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(ramp(1, 32, 32)[0], format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "a.avi").read_bytes()
    assert b"caf_" in data
    (tmp_path / "a.avi").write_bytes(data.replace(b"caf_", b"caf\xe9"))
    assert len(list(VideoFile(epath.Path(tmp_path / "a.avi")).frames())) == 1


def test_a_file_without_video_is_named(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"a.mp4: holds no video"):
        VideoReader(epath.Path(tmp_path / "a.mp4"))


@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_what_is_written_is_read_back_and_plays_in_browsers(tmp_path, size):
    path = epath.Path(tmp_path / "a.mp4")
    images = ramp(12, *size)
    with VideoWriter(path, 10.0, size) as writer:
        for image in images:
            writer.write(image)
        assert not path.exists()
    found = list(VideoFile(path).frames())
    np.testing.assert_allclose([f.time for f in found], np.arange(12) / 10, atol=1e-4)
    for frame, image in zip(found, images, strict=True):
        assert frame.image.shape == (48, 64, 3)
        assert np.abs(frame.image.astype(int) - image[0, 0]).max() < 6
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.colorspace == 6  # BT.601, or players guess by the size
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # it plays while it loads
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_without_an_encoder_for_browsers_another_one_writes_and_says_so_once(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(video, "_ENCODERS", ("none_such",))
    video._encoder.cache_clear()
    try:
        for name in ("a.mp4", "b.mp4"):
            with VideoWriter(epath.Path(tmp_path / name), 10.0, (48, 64)) as writer:
                for image in ramp(12, 48, 64):
                    writer.write(image)
            assert len(list(VideoFile(epath.Path(tmp_path / name)).frames())) == 12
    finally:
        video._encoder.cache_clear()
    assert caplog.text.count("browsers do not play") == 1


def test_frames_are_written_at_their_times_and_long_pauses_are_cut(tmp_path):
    path, times = epath.Path(tmp_path / "a.mp4"), [0.0, 0.1, 0.5, 0.5, 0.6, 1e7, 1e7 + 0.1]
    with VideoWriter(path, 25.0, (32, 32)) as writer:
        for image, time in zip(ramp(7, 32, 32), times, strict=True):
            writer.write(image, time)
    found = [f.time for f in VideoFile(path).frames()]
    np.testing.assert_allclose(found, [0, 0.1, 0.5, 0.5, 0.6, 60.6, 60.7], atol=1e-3)


def test_a_video_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match=r"a.mp4: cannot be written \(No such file or directory\)"):
        VideoWriter(epath.Path(tmp_path / "gone" / "a.mp4"), 25.0, (32, 32))
    with (
        pytest.raises(ZeroDivisionError),
        VideoWriter(epath.Path(tmp_path / "a.mp4"), 25.0, (32, 32)) as writer,
    ):
        writer.write(ramp(1, 32, 32)[0])
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
