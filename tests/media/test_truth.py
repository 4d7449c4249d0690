"""Every container and codec reads as the ffmpeg program shows it, and as it was drawn."""

import dataclasses
from fractions import Fraction

import av
import cv2
import ffmpeg
import mp4
import numpy as np
import pytest
from etils import epath

from data import frames
from rdfer_jax.media.video import VideoReader

FRAMES, FPS, SIZE = 12, 25, (48, 64)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A container, by its suffix, and a codec.

    Attributes:
      options: of the encoder.
      size: height and width; DV has only some.
      pixels: pixel format.
    """

    suffix: str
    codec: str
    pixels: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] = SIZE

    def __str__(self):
        """The id of the test."""
        return "-".join([self.suffix[1:], self.codec, self.pixels, *(v for _, v in self.options)])


_B = (("bf", "2"), ("g", "6"))
_WIDE = (("x265-params", "log-level=none:colorprim=bt709:transfer=bt2020-10:colormatrix=bt2020nc"),)
_LACED = (("flags", "+ildct+ilme"), ("top", "1"))
_LOUD = (("x265-params", "log-level=none"),)
KINDS = (
    *(Kind(suffix, "libx264", options=_B) for suffix in (".mp4", ".mov", ".mkv", ".ts", ".flv")),
    Kind(".mp4", "libx264", "yuv444p"),
    Kind(".mp4", "libx264", "yuvj420p"),  # full range
    Kind(".mp4", "libx264", "yuv420p10le"),
    Kind(".mp4", "libx264", options=(("movflags", "frag_keyframe+empty_moov"), ("g", "4"))),
    Kind(".mp4", "libx264", size=(50, 66)),
    Kind(".mp4", "libx264", "yuv444p", size=(49, 65)),
    Kind(".m2ts", "libx264", options=_B),
    Kind(".3gp", "mpeg4"),
    Kind(".mp4", "libx265", options=_LOUD),
    Kind(".mkv", "libx265", "yuv420p10le", options=_WIDE),
    Kind(".webm", "libvpx"),
    Kind(".webm", "libvpx", "yuva420p", options=(("auto-alt-ref", "0"),)),
    Kind(".webm", "libvpx", options=(("auto-alt-ref", "1"), ("lag-in-frames", "8"))),
    Kind(".webm", "libvpx-vp9", options=(("deadline", "realtime"), ("cpu-used", "8"))),
    Kind(".mp4", "libsvtav1", options=(("preset", "12"),), size=(64, 64)),
    Kind(".mkv", "libaom-av1", options=(("cpu-used", "8"),)),
    Kind(".avi", "mpeg4"),
    Kind(".avi", "mjpeg", "yuvj422p"),
    Kind(".avi", "msmpeg4v3"),
    Kind(".wmv", "wmv2"),
    Kind(".mpg", "mpeg1video"),
    Kind(".mpg", "mpeg2video", options=_B),
    Kind(".ts", "mpeg2video", options=_B),
    Kind(".vob", "mpeg2video", options=_B),
    Kind(".mov", "prores_ks", "yuv422p10le"),
    Kind(".mov", "prores_ks", "yuva444p10le"),
    Kind(".mov", "png", "rgba"),
    Kind(".mov", "mjpeg", "yuvj420p"),
    Kind(".avi", "dvvideo", size=(576, 720)),
    Kind(".dv", "dvvideo", size=(576, 720)),
    Kind(".mkv", "ffv1", "yuv420p"),
    Kind(".mkv", "ffv1", "gray"),
    Kind(".mkv", "ffv1", "gbrp10le"),
    Kind(".avi", "huffyuv", "yuv422p"),
    Kind(".gif", "gif", "rgb8"),
    Kind(".gif", "gif", "gray"),
    Kind(".ogv", "libtheora"),
    Kind(".mxf", "mpeg2video", size=(576, 720)),
)


def drawn(size, count=FRAMES):
    """Frames of two colors, uint8 [T, H, W, 3] in RGB, that get lighter over time."""
    height, width = size
    images = np.zeros((count, height, width, 3), np.uint8)
    level = np.linspace(40, 200, count).round().astype(np.uint8)
    images[..., 0] = level[:, None, None]
    images[:, :, width // 2 :, 1] = 120
    images[:, height // 2 :, :, 2] = 160
    return images


def write(path, kind, count=FRAMES):
    try:
        av.Codec(kind.codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"PyAV has no encoder {kind.codec}")
    images = drawn(kind.size, count)
    muxer = dict(option for option in kind.options if option[0] == "movflags")
    options = dict(option for option in kind.options if option[0] != "movflags")
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(kind.codec, rate=FPS, options=options)
        stream.height, stream.width = kind.size
        stream.pix_fmt = kind.pixels
        stream.codec_context.time_base = Fraction(1, FPS)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return images


def read(path, threads=0):
    with VideoReader(epath.Path(path), threads) as reader:
        found = list(reader.frames())
        assert reader.problem() == ""
    return np.array([f.time for f in found]), np.stack([f.image for f in found])


def mean_color(images):
    """float [T, 2, 2, 3]: the mean of each quarter of each frame."""
    count, height, width, _ = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2].astype(float)
    return even.reshape(count, 2, height // 2, 2, width // 2, 3).mean(axis=(2, 4))


def check(path, filters="", atol=2.5):
    """Compares a file as it is read with what ffmpeg shows; returns it."""
    expected = ffmpeg.shown(path, filters)
    times, images = read(path)
    assert images.shape == expected.images.shape
    np.testing.assert_allclose(times, expected.times, atol=1e-3)
    np.testing.assert_allclose(mean_color(images), mean_color(expected.images), atol=atol)
    return times, images


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_file_reads_as_ffmpeg_shows_it_and_as_it_was_drawn(tmp_path, kind):
    path = tmp_path / f"a{kind.suffix}"
    images = write(path, kind)
    times, found = check(path)
    assert len(found) == FRAMES
    step = 0.01 if kind.suffix == ".gif" else 1e-3  # a GIF counts hundredths
    np.testing.assert_allclose(times, np.arange(FRAMES) / FPS, atol=step)
    if "gray" not in kind.pixels and found.shape == images.shape:
        loose = 40 if kind.pixels == "rgb8" else 25  # 8 levels of red
        np.testing.assert_allclose(mean_color(found), mean_color(images), atol=loose)
    stored = frames.convert(frames.Job(str(path), 1000, 95))
    assert len(stored.frames) == FRAMES and not stored.problem and not stored.damage


def pattern(path, *words, seconds=1.0, source="testsrc2", filters="null"):
    """Writes a moving test pattern by ffmpeg; the words say how."""
    pictures = f"{source}=s=96x64:r=25:d={seconds}"
    ffmpeg.run("-f", "lavfi", "-i", pictures, "-vf", filters, *words, path)
    return path


X264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")


@pytest.mark.parametrize("mirror", ["", "-display_hflip", "-display_vflip"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_video_is_turned_and_mirrored_as_a_player_does(tmp_path, turn, mirror):
    plain = pattern(tmp_path / "a.mp4", *X264, seconds=0.2)
    words = ["-display_rotation", turn, *([mirror] if mirror else [])]
    ffmpeg.run(*words, "-i", plain, "-c", "copy", tmp_path / "b.mp4")
    _, images = check(tmp_path / "b.mp4")
    assert images.shape[1:3] == ((96, 64) if turn in (90, 270) else (64, 96))
    assert len({image.tobytes() for image in (*images[:1], *read(plain)[1][:1])}) == (
        1 if (turn, mirror) == (0, "") else 2
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.mpg", ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", "3")),
        ("a.ts", ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", "3", "-bf", "2")),
        ("a.mkv", (*X264, "-flags", "+ilme+ildct")),
        ("a.mp4", (*X264, "-x264opts", "bff=1", "-flags", "+ilme+ildct")),
    ],
)
def test_interlaced_video_is_deinterlaced_and_always_alike(tmp_path, name, words):
    path = pattern(tmp_path / name, *words, filters="tinterlace=interleave_top")
    _, images = check(path, "yadif=deint=interlaced")
    expected = ffmpeg.shown(path, "yadif=deint=interlaced").images
    assert np.abs(images.astype(int) - expected).mean() < 0.5
    for threads in (1, 2, 8):
        np.testing.assert_array_equal(read(path, threads)[1], images)
    combed = ffmpeg.shown(path).images
    assert np.abs(images.astype(int) - combed).mean() > 1  # it makes a difference


@pytest.mark.parametrize("aspect", ["2/1", "1/2", "16/15", "64/45"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mpg", "a.avi"])
def test_pixels_have_the_shape_that_a_player_shows(tmp_path, name, aspect):
    codec = {"a.mpg": "mpeg2video", "a.avi": "mpeg4"}.get(name, "libx264")
    if codec == "mpeg2video" and aspect != "64/45":
        aspect = "8/9"  # MPEG-2 has a few shapes only
    words = ("-c:v", codec, "-pix_fmt", "yuv420p", "-q:v", "3")
    path = pattern(tmp_path / name, *words, seconds=0.2, filters=f"setsar={aspect}")
    _, images = check(path, atol=7)  # programs differ in how they enlarge
    assert images.shape[2] != 96
    stored = frames.convert(frames.Job(str(path), 1000, 95)).frames[0]
    assert cv2.imdecode(np.frombuffer(stored, np.uint8), 1).shape == images[0].shape


@pytest.mark.parametrize("start", [0.5, 1.2])
def test_an_edit_list_hides_frames_without_a_warning(tmp_path, start):
    """A cut without encoding again, as on phones: frames before the cut are stored, but not shown."""
    whole = pattern(tmp_path / "a.mp4", *X264, "-g", 300, "-bf", 2, seconds=2)
    ffmpeg.run("-ss", start, "-i", whole, "-c", "copy", tmp_path / "b.mp4")
    _, images = check(tmp_path / "b.mp4")
    assert len(images) == int((2 - start) * 25)
    last = read(whole)[1][-1].astype(int)
    assert np.abs(images[-1] - last).mean() < 1


def test_an_edit_list_may_begin_late(tmp_path):
    """FFmpeg then does not even list the frames before the one that is needed for decoding."""
    path = pattern(tmp_path / "a.mp4", *X264, "-g", 10, "-bf", 0, seconds=4)
    mp4.begin_at(path, 2.5)
    _, images = check(path)
    assert len(images) == 37
    assert frames.inspect(str(path)).problems == ()
    assert not frames.convert(frames.Job(str(path), 64, 95)).damage


def test_a_count_that_the_container_guesses_is_not_believed(tmp_path):
    """A webcam in low light: ten frames a second, then fifty. Duration times rate is not what there is."""
    slow_then_fast = "settb=1/1000,setpts='if(lt(N,30),N*0.1,3+(N-30)*0.02)/TB'"
    words = (
        "-fps_mode",
        "vfr",
        "-enc_time_base",
        "1:1000",
        "-c:v",
        "libvpx",
        "-cpu-used",
        "8",
        "-deadline",
        "realtime",
    )
    path = pattern(tmp_path / "a.webm", *words, seconds=2, filters=slow_then_fast)
    times, images = check(path)
    assert len(images) == 50
    np.testing.assert_allclose(np.diff(times[:30]), 0.1, atol=2e-3)
    with VideoReader(epath.Path(path)) as reader:
        assert reader.declared == 0
    assert len(frames.convert(frames.Job(str(path), 64, 95)).frames) == 50
    assert frames.inspect(str(path)).problems == ()


def test_a_jump_in_time_stays_a_jump(tmp_path):
    path = pattern(
        tmp_path / "a.mkv", "-fps_mode", "vfr", "-c:v", "libvpx", "-deadline", "realtime",
        filters="setpts='if(lt(N,12),N/25,1e7+N/25)/TB'",
    )  # fmt: skip
    times, images = read(path)
    assert len(images) == 25
    np.testing.assert_allclose(times[:12], np.arange(12) / 25, atol=1e-3)
    np.testing.assert_allclose(times[12:] - 1e7, np.arange(12, 25) / 25, atol=1e-3)


def cut(path, share):
    """Leaves only the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("a.mp4", ("-movflags", "+faststart"), "of the 50 frames"),
        ("a.mp4", ("-movflags", "frag_keyframe+empty_moov", "-g", "5"), "of its bytes"),
        ("a.mkv", ("-g", "10"), "of its bytes"),
        ("a.avi", ("-bf", "0"), "of the 50 frames"),
    ],
)
def test_a_video_that_breaks_off_is_named_and_what_is_there_is_read(tmp_path, name, words, message):
    path = cut(pattern(tmp_path / name, *X264, *words, seconds=2), 0.7)
    expected = ffmpeg.shown(path)
    for threads in (0, 1, 8):
        with VideoReader(epath.Path(path), threads) as reader:
            assert len(list(reader.frames())) == len(expected.images) < 50
            assert message in reader.problem()
            assert 0.5 < reader.share < 0.95
    (problem,) = frames.inspect(str(path)).problems
    assert name in problem and message in problem
    stored = frames.convert(frames.Job(str(path), 64, 95))
    assert message in stored.damage and len(stored.frames) == len(expected.images)
    if "frag_keyframe+empty_moov" not in words:  # fragments say nothing of those behind them
        less = cut(path, 0.5)
        assert message in frames.convert(frames.Job(str(less), 64, 95)).problem


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("a.mp4", X264), ("a.mkv", X264), ("a.ts", X264), ("a.flv", X264)),
        *(("a.avi", ("-c:v", "mpeg4")), ("a.mpg", ("-c:v", "mpeg2video"))),
        *(
            ("a.webm", ("-c:v", "libvpx", "-deadline", "realtime", "-threads", 2)),
            ("a.mov", ("-c:v", "mjpeg")),
        ),
    ],
)
@pytest.mark.parametrize(
    ("kind", "place"), [("zeros", (0.4, 0.5)), ("noise", (0.4, 0.5)), ("noise", (0.9, 0.93))]
)
def test_reading_goes_on_after_damage_and_it_is_reported(tmp_path, name, codec, kind, place):
    path = pattern(tmp_path / name, *codec, "-g", 10, seconds=4)
    data = bytearray(path.read_bytes())
    start, end = (int(share * len(data)) for share in place)
    noise = np.random.default_rng(0).integers(0, 256, end - start, np.uint8).tobytes()
    data[start:end] = noise if kind == "noise" else bytes(end - start)
    path.write_bytes(data)
    results = set()
    for threads in (1, 2, 16):
        with VideoReader(epath.Path(path), threads) as reader:
            found = list(reader.frames())
            results.add((len(found), found[-1].time, reader.problem(), reader.share))
    ((_, _, problem, share),) = results
    assert "damage" in problem and share > 0.85
    expected = ffmpeg.shown(path)
    assert len(found) == pytest.approx(len(expected.images), abs=1) and len(found) > 70
    assert found[-1].time == pytest.approx(expected.times[-1], abs=1e-3)
    assert problem in frames.inspect(str(path)).problems[0]
    assert frames.convert(frames.Job(str(path), 64, 95)).damage == problem
