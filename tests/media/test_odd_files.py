"""Files as cameras, phones, editors and accidents leave them: read as a player does, or refused by name."""

import io
import os

import ffmpeg
import mp4
import numpy as np
import pytest
import raw_trees
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from data import frames
from rdfer_jax.media import files, images, sources
from rdfer_jax.media.clock import Clock
from rdfer_jax.media.files import MediaError
from rdfer_jax.media.video import VideoReader

X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")


def pictures(seconds=1.0, size="96x64", source="testsrc2"):
    return ("-f", "lavfi", "-i", f"{source}=s={size}:r=25:d={seconds}")


def check(path):
    """Compares a video with what ffmpeg shows, read for training and for prediction; returns the frames."""
    expected = ffmpeg.shown(path)
    with VideoReader(epath.Path(path)) as reader:
        found = list(reader.frames())
    assert np.stack([f.image for f in found]).shape == expected.images.shape
    np.testing.assert_allclose([f.time for f in found], expected.times, atol=1.1e-3)
    for frame, image in zip(found, expected.images, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 2
    assert len(frames.convert(frames.Job(str(path), 64, 95)).frames) == len(found)
    return found


ODD = {
    "negative composition times.mp4": (*X264, "-bf", "2", "-movflags", "+negative_cts_offsets"),
    "one frame.mp4": ("-frames:v", "1", *X264),
    "a thousand a second.mp4": ("-vf", "settb=1/1000,setpts=N", "-r", "1000", *X264),
    "bt709.mp4": ("-vf", "scale=out_color_matrix=bt709", *X264, "-colorspace", "bt709"),
    "full range.mp4": ("-vf", "scale=out_range=full", *X264, "-color_range", "pc"),
    "rgb.mp4": ("-c:v", "libx264rgb"),
    "12 bit.mkv": ("-c:v", "libx265", "-pix_fmt", "yuv444p12le", "-x265-params", "log-level=none"),
    "camera.mov": ("-c:v", "libx265", "-pix_fmt", "yuv422p10le", "-x265-params", "log-level=none"),
    "one bit.avi": ("-c:v", "rawvideo", "-pix_fmt", "monow"),
    "palette.avi": ("-c:v", "rawvideo", "-pix_fmt", "pal8"),
    "yuyv.avi": ("-c:v", "rawvideo", "-pix_fmt", "yuyv422"),
    "16 bit gray.mkv": ("-c:v", "ffv1", "-pix_fmt", "gray16le"),
    "16 bit alpha.mov": ("-c:v", "png", "-pix_fmt", "rgba64be"),
    "animation.mov": ("-c:v", "qtrle", "-pix_fmt", "argb"),
    "cinepak.avi": ("-c:v", "cinepak"),
    "broadcast.m2v": ("-c:v", "mpeg2video"),
    "one picture.gif": ("-frames:v", "1"),
    "raw.y4m": ("-pix_fmt", "yuv420p"),
    "raw.mjpeg": ("-c:v", "mjpeg", "-f", "mjpeg"),
    "raw.mjpg": ("-c:v", "mjpeg", "-f", "mjpeg"),
    "animation.apng": ("-f", "apng"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_read_as_ffmpeg_shows_it(tmp_path, name):
    path = tmp_path / name
    ffmpeg.run(*pictures(0.4), *ODD[name], path)
    check(path)


@pytest.mark.parametrize(
    ("name", "start", "length"),
    [
        ("a.mjpg", "", "Content-length: %d"),
        ("a", "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame", ""),
        ("a.bin", "", "X-Timestamp: 1.5\r\nContent-Length: %d"),
    ],
)
def test_a_dump_of_a_network_camera_is_read(tmp_path, name, start, length):
    """multipart/x-mixed-replace: JPEGs with headers between them."""
    ffmpeg.run(*pictures(0.4), "-q:v", 2, tmp_path / "%d.jpg")
    jpegs = [(tmp_path / f"{number}.jpg").read_bytes() for number in range(1, 11)]
    parts = [start.encode() + b"\r\n\r\n"] if start else []
    for jpeg in jpegs:
        head = f"--frame\r\nContent-Type: image/jpeg\r\n{length % len(jpeg) if length else ''}\r\n"
        parts.append(head.encode() + b"\r\n" * bool(length) + jpeg + b"\r\n")
    (tmp_path / name).write_bytes(b"".join(parts))
    (video,) = sources.find(tmp_path / name)
    found = list(video.frames())
    expected = ffmpeg.shown(tmp_path / "%d.jpg").images
    assert not video.damage and len(found) == len(expected)
    for frame, image in zip(found, expected, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 2


@pytest.mark.parametrize(
    ("name", "offset"),
    [("a.mp4", -0.5), ("a.mkv", 5), ("a.ts", 5), ("a.ts", 95_443)],
)
def test_the_first_frame_is_at_zero_wherever_the_clock_starts(tmp_path, name, offset):
    """The last one lets the 33 bits of a transport stream's clock run over."""
    path = tmp_path / name
    start = ("-itsoffset", offset, *pictures(1.0))
    ffmpeg.run(*start, *X264, "-copyts", "-muxdelay", 0, path)
    assert check(path)[0].time == 0


def test_what_a_stream_cuts_off_is_not_shown(tmp_path):
    """On the left, FFmpeg by itself would cut to an address that suits the processor only."""
    ffmpeg.run(*pictures(0.2), *X264, tmp_path / "a.mp4")
    cut = ("-c", "copy", "-bsf:v", "h264_metadata=crop_left=10:crop_bottom=6")
    ffmpeg.run("-i", tmp_path / "a.mp4", *cut, tmp_path / "b.mp4")
    assert check(tmp_path / "b.mp4")[0].image.shape == (58, 86, 3)


@pytest.mark.parametrize("offset", [(0, 0), (-8, 6)])
@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_what_a_container_cuts_off_is_not_shown(tmp_path, name, offset):
    """Also of the second of two videos in a file."""
    ffmpeg.run(*pictures(0.2), *X264, tmp_path / "a.mp4")
    mp4.crop(tmp_path / "a.mp4", (48, 32), offset)
    ffmpeg.run(*pictures(0.2, "64x48", "testsrc"), *X264, tmp_path / "other.mp4")
    both = ("-i", tmp_path / "other.mp4", "-i", tmp_path / "a.mp4", "-map", 0, "-map", 1)
    default = ("-disposition:v:0", 0, "-disposition:v:1", "default", "-c", "copy")
    ffmpeg.run(*both, *default, tmp_path / "two.mkv")
    last = ("-map", "0:v:1", "-c", "copy")
    ffmpeg.run("-i", tmp_path / "two.mkv", *last, tmp_path / "b.mkv")
    path = tmp_path / ("a.mp4" if name == "b.mp4" else name)
    assert check(path)[0].image.shape == (32, 48, 3)
    with VideoReader(epath.Path(tmp_path / "two.mkv")) as reader:
        assert next(reader.frames()).image.shape == (32, 48, 3)


def test_frames_of_one_stamp_share_the_time_to_the_next(tmp_path):
    """A screen recorder's: 4 frames per second on average, and two frames at once at the start."""
    times = "setpts='if(lt(N,2),0,if(lt(N,6),N-1,25*(N-5)))'"
    words = ("-vf", f"settb=1/25,{times}", "-fps_mode", "passthrough", "-c:v", "ffv1")
    ffmpeg.run(*pictures(0.4), *words, tmp_path / "a.mkv")
    found = list(sources.VideoFile(epath.Path(tmp_path / "a.mkv")).frames())
    expected = [0, 0.02, 0.04, 0.08, 0.12, 0.16, 1, 2, 3, 4]
    np.testing.assert_allclose([frame.time for frame in found], expected, atol=1.1e-3)


def test_a_sound_that_begins_before_the_pictures_does_not_shift_them(tmp_path):
    ffmpeg.run(*pictures(), *X264, tmp_path / "a.mp4")
    sound = ("-f", "lavfi", "-i", "sine=d=3")
    copied = ("-map", 0, "-map", 1, "-c:v", "copy", "-c:a", "aac")
    ffmpeg.run("-itsoffset", 2, "-i", tmp_path / "a.mp4", *sound, *copied, tmp_path / "b.mp4")
    assert check(tmp_path / "b.mp4")[0].time == 0


def test_a_cover_is_no_video(tmp_path):
    ffmpeg.run(*pictures(0.04, "320x240", "testsrc"), "-frames:v", 1, tmp_path / "cover.png")
    ffmpeg.run(*pictures(0.4), *X264, tmp_path / "a.mp4")
    both = ("-i", tmp_path / "cover.png", "-i", tmp_path / "a.mp4", "-map", 0, "-map", 1)
    as_cover = ("-c:v:0", "mjpeg", "-disposition:v:0", "attached_pic")
    ffmpeg.run(*both, *as_cover, "-c:v:1", "copy", tmp_path / "b.mp4")
    with VideoReader(epath.Path(tmp_path / "b.mp4")) as reader:
        found = list(reader.frames())
    assert len(found) == 10 and found[0].image.shape == (64, 96, 3)
    sound = ("-f", "lavfi", "-i", "sine=d=1", "-i", tmp_path / "cover.png", "-map", 0, "-map", 1)
    ffmpeg.run(*sound, "-c:a", "aac", *as_cover, tmp_path / "c.mp4")
    with pytest.raises(MediaError, match=r"c.mp4: holds no video"):
        VideoReader(epath.Path(tmp_path / "c.mp4"))
    assert "c.mp4: holds no video" in frames.probe(str(tmp_path / "c.mp4")).problem


def test_of_two_videos_the_default_one_is_read(tmp_path):
    two = (*pictures(0.4, "320x240", "testsrc"), *pictures(0.4), "-map", 0, "-map", 1, *X264)
    default = ("-disposition:v:0", 0, "-disposition:v:1", "default")
    ffmpeg.run(*two, *default, tmp_path / "a.mkv")
    with VideoReader(epath.Path(tmp_path / "a.mkv")) as reader:
        assert {frame.image.shape for frame in reader.frames()} == {(64, 96, 3)}


def test_frames_before_the_first_that_can_be_decoded_are_left_out(tmp_path):
    """A recording of television begins anywhere."""
    whole = tmp_path / "a.ts"
    ffmpeg.run(*pictures(2.0), "-c:v", "mpeg2video", "-g", 12, "-bf", 2, whole)
    data = whole.read_bytes()
    whole.write_bytes(data[188 * (len(data) // 188 // 4) :])
    assert 25 < len(check(whole)) < 50


def test_frames_that_change_their_shape_are_fit_into_the_first(tmp_path):
    for name, size in (("1.ts", "96x64"), ("2.ts", "64x96")):
        ffmpeg.run(*pictures(0.4, size), *X264, tmp_path / name)
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "1.ts").read_bytes() + (tmp_path / "2.ts").read_bytes())
    found = list(sources.VideoFile(epath.Path(both)).frames())
    assert len(found) == 20 and {f.image.shape for f in found} == {(64, 96, 3)}
    tall = found[-1].image
    assert not tall[:, :26].any() and not tall[:, -26:].any()  # 43 x 64 in the middle, not squeezed
    assert tall[:, 28:68].mean() > 50


NOT_READ = "not a video that FFmpeg can read"
ACCIDENTS = {
    "empty.mp4": (b"", "an empty file"),
    "text.mp4": (b"This is not a film.\n" * 50, NOT_READ),
    "page.mp4": (b"<!DOCTYPE html><html>404</html>" * 50, f"{NOT_READ}: a page of the web, which"),
    "zeros.mp4": (
        bytes(100_000),
        f"{NOT_READ}: a file that ends in zeros; the recording, download",
    ),
    "picture.mp4": (raw_trees.picture(0, 1, 1, 32, ".png"), f"{NOT_READ}: a picture; pictures"),
    "photo.mp4": (raw_trees.picture(0, 1, 1, 32, ".jpg"), f"{NOT_READ}: a picture; pictures"),
    "lfs.mp4": (
        b"version https://git-lfs.github.com/spec/v1\n",
        f"{NOT_READ}: a pointer of Git LFS",
    ),
    "annex.mp4": (
        b"/annex/objects/MD5E-s1--d4.mp4\n",
        f"{NOT_READ}: a pointer of git-annex; fetch",
    ),
    "archive.mp4": (b"PK\3\4" + bytes(99), f"{NOT_READ}: an archive (ZIP) or an office document"),
    "tar.mp4": (
        b"a".ljust(257, b"\0") + b"ustar" + bytes(99),
        f"{NOT_READ}: an archive; unpack it",
    ),
    "sound.mp4": (b"RIFF\0\1\0\0WAVEfmt " + bytes(99), f"{NOT_READ}: sound without pictures"),
    "lost power.mp4": (
        b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\0mdat" + 999 * b"x",
        f"{NOT_READ}: an MP4 without its index, which comes last; the recording, download or copy",
    ),
}


@pytest.mark.parametrize("name", ACCIDENTS)
def test_what_is_no_video_is_named(tmp_path, name):
    data, message = ACCIDENTS[name]
    (tmp_path / name).write_bytes(data)
    expected = f"{tmp_path}/{name}: {message}"
    (found,) = sources.find(tmp_path / name)
    with pytest.raises(MediaError) as error:
        next(found.frames())
    assert str(error.value).startswith(expected)
    assert frames.probe(str(tmp_path / name)).problem == str(error.value)
    assert frames.inspect(str(tmp_path / name)).problems == (str(error.value),)


def test_an_encrypted_video_is_called_so(tmp_path):
    key = ("-encryption_key", 32 * "7", "-encryption_kid", 32 * "a")
    locked = ("-encryption_scheme", "cenc-aes-ctr", *key)
    ffmpeg.run(*pictures(0.2), *X264, *locked, tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="no frame that can be decoded, because it is encrypted"):
        list(sources.VideoFile(epath.Path(tmp_path / "a.mp4")).frames())


@pytest.mark.parametrize("change", ["grows", "is replaced", "is removed"])
def test_a_file_that_changes_while_it_is_read_is_told(tmp_path, change):
    path, other = tmp_path / "a.ts", tmp_path / "b.ts"
    ffmpeg.run(*pictures(0.8), *X264, other)
    data = other.read_bytes()
    path.write_bytes(data[: len(data) // 188 // 2 * 188])
    video = sources.VideoFile(epath.Path(path))
    stream = video.frames()
    next(stream)
    if change == "grows":
        path.write_bytes(data)
    elif change == "is replaced":
        other.replace(path)
    else:
        path.unlink()
    assert len(list(stream)) > 5
    assert "changed while it was read; is it still being recorded or copied?" in video.damage
    if change != "is removed":
        assert len(list(video.frames())) == 20 and not video.damage


def test_videos_are_found_under_any_name(tmp_path):
    video = tmp_path / "outside.bin"
    ffmpeg.run(*pictures(0.2), *X264, "-f", "mp4", video)
    folder = tmp_path / "in"
    (folder / "folder.mp4").mkdir(parents=True)
    names = ("UPPER.MOV", "no suffix", "folder.mp4/a.mp4", "caf\udce9.mp4", 251 * "x" + ".mp4")
    for name in names:
        (folder / name).write_bytes(video.read_bytes())
    (folder / "link.mp4").symlink_to(video)
    (folder / "README").write_text("text")
    found = sources.find(folder)
    assert sorted(s.name for s in found) == sorted(
        files.printable(folder / name) for name in (*names, "link.mp4")
    )
    assert {len(list(source.frames())) for source in found} == {5}
    (alone,) = sources.find(video)  # whatever its name says
    assert len(list(alone.frames())) == 5
    with pytest.raises(MediaError, match=r"README: not a video .*Expected a video, a folder"):
        sources.find(folder / "README")


@pytest.mark.parametrize(
    "address", ["https://example.com/a.mp4", "HTTP://e.org/a", "rtsp://camera/1", "ftp://x/y.avi"]
)
def test_an_address_is_refused_in_one_line(tmp_path, address):
    with pytest.raises(MediaError, match="an address on the network; download the file") as error:
        sources.find(address)
    assert str(error.value).startswith(f"{address}: ") and "\n" not in str(error.value)
    (tmp_path / "list.txt").write_text(f"{address}\n")
    (found,) = sources.find(tmp_path / "list.txt")
    with pytest.raises(MediaError, match=r"list.txt, line 1: .*an address on the network"):
        next(found.frames())


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(tmp_path, monkeypatch):
    raw_trees.write_video(tmp_path / "a.mp4", frames=2, label=1, size=32)
    (tmp_path / "locked").mkdir()
    listed = type(epath.Path(tmp_path)).iterdir

    def deny(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(type(epath.Path(tmp_path)), "iterdir", deny)
    good, bad = sources.find(tmp_path)
    assert len(list(good.frames())) == 2
    with pytest.raises(MediaError, match=r"locked: cannot be read \(Permission denied\)"):
        next(bad.frames())


def test_names_are_printable():
    raw = os.fsdecode(b"caf\xe9 \n\x1b[31m.mp4")
    assert files.printable(raw) == r"caf\xe9 \n\x1b[31m.mp4"
    for name in ("\u5047\u671f \U0001f468\u200d\U0001f469.mp4", "gr\u00fc\u00df e.mp4", "a\u3000b"):
        assert files.printable(name) == name


# Pictures.


def corners():
    image = np.zeros((24, 32, 3), np.uint8)
    image[:8, :8], image[:8, 24:], image[16:, :8] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return image


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright(format_, orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(format_, {})
    Image.fromarray(corners()).save(file, format_, exif=exif, **options)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    np.testing.assert_array_equal(images.decode(file.getvalue(), "x"), upright)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_a_picture_of_any_kind_is_rgb(mode):
    file = io.BytesIO()
    Image.fromarray(np.full((17, 19), 255, np.uint8)).convert(mode).save(file, "TIFF")
    found = images.decode(file.getvalue(), "x")
    assert found.shape == (17, 19, 3) and found.dtype == np.uint8 and found.mean() > 250


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tiff"])
def test_an_animation_is_no_picture(tmp_path, suffix):
    first, *others = (Image.fromarray(np.full((16, 16, 3), 40 * i, np.uint8)) for i in range(4))
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=others)
    message = f"a{suffix}: holds 4 pictures, expected one"
    assert message in frames.probe(str(tmp_path)).problem
    assert message in frames.convert(frames.Job(str(tmp_path), 16, 95)).problem
    (found,) = sources.find(tmp_path)
    with pytest.raises(MediaError, match=message):
        list(found.frames())


def stored_order(folder):
    return [path.stem for path in frames.frame_files(epath.Path(folder))]


@pytest.mark.parametrize(
    "names",
    [
        "0.0 0.04 0.1 0.25 0.5 1.0 1.25 10.5",
        "0 0.04 0.1 1 1.25 2",
        "0.25 0.5 1.0 1.25",
        "t=0.04s t=0.1s t=0.25s t=10.5s",
        "0,04 0,1 0,25 1,5",
        "-0.5 -0.25 0.0 0.25 0.5",
        "0.0 1e-05 2e-05 0.04",
        "a.1 a.2 a.10",
        "1.1 1.2 1.9 1.10 1.11 2.1",
        "1.2.3 1.2.10 1.10.1",
        "0.00 0.04 0.10 0.25",
        "frame_1 frame_2 frame_10",
    ],
)
def test_pictures_come_in_the_order_of_the_numbers_in_their_names(tmp_path, names):
    wanted = names.split()
    for name in sorted(wanted, key=hash):
        (tmp_path / f"{name}.png").write_bytes(b"x")
    assert stored_order(tmp_path) == wanted
    found = files.in_time_order(epath.Path(path) for path in tmp_path.iterdir())
    assert [path.stem for path in found] == wanted


@pytest.mark.parametrize("names", ["0.04 0.1 0.10 0.5", "1.05 1.1 1.20"])
def test_an_order_that_names_do_not_tell_is_refused(tmp_path, names):
    for name in names.split():
        (tmp_path / f"{name}.png").write_bytes(b"x")
    with pytest.raises(MediaError, match=r"do not tell whether .* is a decimal number"):
        stored_order(tmp_path)
    assert "do not tell" in frames.probe(str(tmp_path)).problem


@pytest.mark.parametrize(
    ("names", "is_one"),
    [
        ("1.jpg 1_mask.png 2.jpg 2_mask.png", False),
        ("f_1_rgb.png f_1_depth.png f_2_rgb.png f_2_depth.png", False),
        ("1.jpg 2.jpg 2_mask.png", True),
        ("1.jpg 1_mask.png", True),
        ("a_1.jpg a_2.jpg b_1.jpg b_2.jpg", True),  # one after the other
        ("a1.jpg b2.jpg a3.jpg b4.jpg", True),
    ],
)
def test_two_series_in_one_folder_are_no_video(tmp_path, names, is_one):
    for name in names.split():
        (tmp_path / name).write_bytes(raw_trees.picture(0, 1, 1, 32, name[-4:]))
    problem = frames.probe(str(tmp_path)).problem
    assert bool(problem) != is_one
    assert is_one or "2 series of pictures" in problem


@given(st.lists(st.floats(0, 1e4).map(lambda x: round(x, 3)), min_size=2, unique=True))
def test_times_as_python_prints_them_are_in_order(times):
    found = files.in_time_order(epath.Path(f"{time}.png") for time in times)
    assert [float(path.stem) for path in found] == sorted(times)


# Time stamps.


def clocked(stamps, fps=10.0):
    clock = Clock(fps)
    return [round(clock(stamp), 6) for stamp in stamps]


def test_stamps_become_times_from_the_first_frame():
    assert clocked([5.0, 5.1, 5.35, 1e7]) == [0, 0.1, 0.35, 1e7 - 5]
    assert clocked([-3.0, -2.9]) == [0, 0.1]


@pytest.mark.parametrize("stamp", [None, 0.0, 7.0])
def test_frames_without_a_clock_follow_at_the_frame_rate(stamp):
    assert clocked([stamp] * 4) == [0, 0.1, 0.2, 0.3]
    assert clocked([None, None, 5.0, 5.1]) == [0, 0.1, 0.2, 0.3]


def test_a_late_frame_is_squeezed_in_and_shifts_no_other():
    assert clocked([0.0, 0.1, 0.2, 0.05, 0.3, 0.4]) == [0, 0.1, 0.2, 0.2125, 0.3, 0.4]
    assert clocked([0.0, 0.1, 0.1, 0.2]) == [0, 0.1, 0.2, 0.2125]


def test_time_goes_on_when_the_clock_of_a_file_starts_again():
    found = clocked([9.0, 9.1, 9.2, 0.0, 0.1, 0.2, 0.3])
    assert found[:3] == [0, 0.1, 0.2]
    np.testing.assert_allclose(np.diff(found[4:]), 0.1)
    assert 0.2 < found[3] < found[4] < 0.45


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_times_rise_whatever_the_stamps(stamps):
    clock = Clock(25.0)
    times = [clock(stamp) for stamp in stamps]
    assert times[0] == 0 and all(np.diff(times) > 0)
