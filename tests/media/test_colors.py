"""HDR (PQ, HLG) is read as BT.2100, BT.2390 and sRGB say; other video as coded, in the colors of sRGB."""

import av
import ffmpeg
import mp4
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from etils import epath

from data import frames
from rdfer_jax.media import images
from rdfer_jax.media.video import VideoReader

X265 = ("-c:v", "libx265", "-x265-params", "log-level=none:crf=4", "-pix_fmt", "yuv420p10le")
VP9 = ("-c:v", "libvpx-vp9", "-profile:v", 2, "-crf", 4, "-b:v", 0, "-cpu-used", 8)
AV1 = ("-c:v", "libsvtav1", "-preset", 12, "-crf", 4, "-svtav1-params", "profile=0")
CODECS = {
    "a.mov": X265,
    "a.webm": (*VP9, "-pix_fmt", "yuv420p10le"),
    "a.mkv": (*AV1, "-pix_fmt", "yuv420p10le"),
}
#: Coded R'G'B' of the patches: grays, skin in light and shade, colors, highlights.
CODES = np.array(
    [
        *((g, g, g) for g in (0, 0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1)),
        *((0.45, 0.4, 0.36), (0.34, 0.29, 0.26), (0.22, 0.19, 0.18), (0.58, 0.5, 0.46)),
        *((0.45, 0.38, 0.36), (0.38, 0.42, 0.36), (0.36, 0.38, 0.45), (0.8, 0.7, 0.6)),
    ]
)
SIDE = 32


#: How zscale and the frames of FFmpeg call the matrices.
MATRICES = {
    "bt601": ("170m", "smpte170m"),
    "bt709": ("709", "bt709"),
    "bt2020": ("2020_ncl", "bt2020nc"),
}


def write(path, codes, words, transfer, primaries="bt2020", matrix="bt2020", limits="tv"):
    """Writes a video of 3 frames of squares side by side, whose coded R'G'B' [N, 3] is known."""
    image = np.repeat((codes * 65_535).round().astype("<u2")[None], SIDE, 0).repeat(SIDE, 1)
    (path.parent / "raw").write_bytes(np.stack([image] * 3).tobytes())
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", f"{image.shape[1]}x{SIDE}", "-r", 25)
    coded_by, tag = MATRICES[matrix]
    tags = f"color_primaries={primaries}:color_trc={transfer}:colorspace={tag}:range={limits}"
    coded = f"zscale=min=gbr:rin=full:m={coded_by}:r={limits},format={words[-1]}"
    ffmpeg.run(*raw, "-i", path.parent / "raw", "-vf", f"{coded},setparams={tags}", *words, path)
    return path


def read(path):
    """The middle of each square of the last frame, uint8 [N, 3]; frames are read as for prediction."""
    with VideoReader(epath.Path(path)) as reader:
        return list(reader.frames())[-1].image[SIDE // 2, SIDE // 2 :: SIDE]


def pq(nits):
    """SMPTE ST 2084: cd/m² -> code."""
    y = (np.asarray(nits) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def nits_of(code, transfer):
    """BT.2100: coded R'G'B' [N, 3] -> cd/m² on a display of 1,000."""
    if transfer == "smpte2084":
        table = np.geomspace(1e-6, 1e4, 400_000)
        return np.interp(code, pq(table), table, left=0)
    scene = np.where(
        code <= 0.5, 4 * code**2, np.exp((code - 0.55991073) / 0.17883277) + 0.28466892
    )
    scene = scene / 12
    return 1000 * scene * (scene @ [0.2627, 0.6780, 0.0593])[:, None] ** 0.2


def expected(codes, transfer):
    """What an ordinary display shows: BT.2087's matrix, BT.2390's curve from 1,000 to 203 cd/m², sRGB."""
    nits = np.minimum(nits_of(codes, transfer), 1000)
    bt709 = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    nits = np.clip(nits @ np.transpose(bt709), 0, 1000)
    low, high = pq(203) / pq(1000), pq(nits) / pq(1000)
    knee = 1.5 * low - 0.5
    t = (high - knee) / (1 - knee)
    spline = np.polynomial.Polynomial([knee, 1 - knee, 3 * low - 2 - knee, 1 + knee - 2 * low])
    table = np.geomspace(1e-6, 1e4, 400_000)
    nits = np.interp(np.where(high < knee, high, spline(t)) * pq(1000), pq(table), table, left=0)
    light = np.clip(nits / 203, 0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * srgb


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
@pytest.mark.parametrize("name", CODECS)
def test_hdr_is_shown_on_the_scale_of_an_ordinary_display(tmp_path, name, transfer):
    path = write(tmp_path / name, CODES, CODECS[name], transfer)
    found, wanted = read(path), expected(CODES, transfer)
    np.testing.assert_allclose(found, wanted, atol=4)
    assert np.abs(found - wanted).mean() < 1
    stored = images.decode(frames.convert(frames.Job(str(path), 1000, 100)).frames[-1], "x")
    np.testing.assert_allclose(stored[SIDE // 2, SIDE // 2 :: SIDE], wanted, atol=7)


def test_below_the_tone_curve_hdr_is_what_zimg_shows(tmp_path):
    """An implementation by others, of light that is not compressed: white is at 203 cd/m² in both."""
    words = ("-c:v", "ffv1", "-pix_fmt", "yuv444p10le")
    path = write(tmp_path / "a.mkv", CODES, words, "smpte2084")
    light = "zscale=t=linear:npl=203,format=gbrpf32le,zscale=p=bt709:t=iec61966-2-1:m=gbr:r=full"
    shown = ffmpeg.shown(path, f"{light},format=gbrp").images[-1][SIDE // 2, SIDE // 2 :: SIDE]
    is_dark = (nits_of(CODES, "smpte2084") < 70).all(axis=1)
    assert is_dark.sum() > 8
    np.testing.assert_allclose(read(path)[is_dark], shown[is_dark], atol=1)


def test_hdr_that_names_neither_matrix_nor_primaries_is_bt2020(tmp_path):
    words = ("-c:v", "ffv1", "-pix_fmt", "yuv444p10le")
    whole = write(tmp_path / "a.mkv", CODES, words, "smpte2084")
    tags = "setparams=color_primaries=unknown:colorspace=unknown"
    ffmpeg.run("-i", whole, "-vf", tags, *words, tmp_path / "b.mkv")
    np.testing.assert_array_equal(read(tmp_path / "b.mkv"), read(whole))


@pytest.mark.parametrize("limits", ["tv", "pc"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_sdr_is_what_was_coded_whatever_the_matrix_and_the_limits(tmp_path, matrix, limits):
    words = ("-c:v", "ffv1", "-pix_fmt", "yuv444p10le")
    colors = np.array([[0.8, 0.2, 0.1], [0.1, 0.7, 0.3], [0.2, 0.3, 0.9], [0.6, 0.5, 0.4]])
    path = write(tmp_path / "a.mkv", colors, words, "bt709", "bt709", matrix, limits)
    np.testing.assert_allclose(read(path), 255 * colors, atol=2)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
def test_sdr_is_bit_for_bit_what_ffmpegs_converter_gives(tmp_path, pixels):
    path = write(tmp_path / "a.mkv", CODES, ("-c:v", "ffv1", "-pix_fmt", pixels), "bt709", "bt709")
    with av.open(str(path)) as container:
        plain = [
            VideoReformatter().reformat(frame, format="rgb24").to_ndarray()
            for frame in container.decode(video=0)
        ]
    with VideoReader(epath.Path(path)) as reader:
        np.testing.assert_array_equal([frame.image for frame in reader.frames()], plain)


@pytest.mark.parametrize("transfer", ["bt709", "iec61966-2-1", "bt2020-10"])
@pytest.mark.parametrize(("primaries", "matrix"), [("bt2020", "bt2020"), ("smpte432", "bt709")])
def test_a_wide_gamut_is_shown_in_the_colors_of_an_ordinary_display(
    tmp_path, primaries, matrix, transfer
):
    """As by zimg; colors that such a display does not have are cut off."""
    words = ("-c:v", "ffv1", "-pix_fmt", "yuv444p10le")
    path = write(tmp_path / "a.mkv", CODES, words, transfer, primaries, matrix)
    own = "iec61966-2-1" if transfer == "iec61966-2-1" else "bt709"
    convert = f"zscale=t=linear,format=gbrpf32le,zscale=p=bt709:t={own}:m=gbr:r=full,format=gbrp"
    shown = ffmpeg.shown(path, convert).images[-1][SIDE // 2, SIDE // 2 :: SIDE]
    np.testing.assert_allclose(read(path), shown, atol=2)
    with VideoReader(epath.Path(path)) as reader:
        list(reader.frames())
        assert not reader.problem()
    is_gray = np.ptp(CODES, axis=1) == 0
    np.testing.assert_allclose(read(path)[is_gray], 255 * CODES[is_gray], atol=2)
    saturated = CODES[-1:] * [1, 0.5, 0.3]
    path = write(tmp_path / "b.mkv", saturated, words, transfer, primaries, matrix)
    assert np.ptp(read(path)) > 255 * np.ptp(saturated) + 5


@pytest.mark.parametrize(
    ("words", "is_log"),
    [
        (("-bsf:v", "h264_metadata=transfer_characteristics=9"), True),
        (("-bsf:v", "h264_metadata=colour_primaries=9:transfer_characteristics=2"), True),
        (("-movflags", "use_metadata_tags", "-metadata", "gamma=S-Log3-Cine"), True),
        (("-metadata", "title=My V-Log of the holidays"), False),
        (("-bsf:v", "h264_metadata=colour_primaries=9:transfer_characteristics=14"), False),
    ],
)
def test_log_footage_is_told(tmp_path, words, is_log):
    source = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=0.2", "-c:v", "libx264")
    ffmpeg.run(*source, "-pix_fmt", "yuv420p", *words, tmp_path / "a.mp4")
    told = frames.convert(frames.Job(str(tmp_path / "a.mp4"), 64, 95)).damage
    assert told.startswith("log footage") == is_log and bool(told) == is_log
    problems = frames.inspect(str(tmp_path / "a.mp4")).problems
    assert [told in problem for problem in problems] == [True] * is_log


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("profile", "compatible_with", "is_read"),
    [(5, 0, False), (8, 4, True), (10, 0, False), (10, 1, True)],
)
def test_dolby_vision_without_ordinary_colors_is_refused(
    tmp_path, suffix, profile, compatible_with, is_read
):
    source = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=0.2", "-c:v", "libx264")
    ffmpeg.run(*source, "-pix_fmt", "yuv420p", path := tmp_path / "a.mp4")
    mp4.dolby_vision(path, profile, compatible_with)
    if suffix == ".mkv":
        ffmpeg.run("-i", path, "-c", "copy", path := tmp_path / "b.mkv")
    problem = frames.probe(str(path)).problem
    assert ("Dolby Vision" in problem) != is_read and bool(problem) != is_read


@pytest.mark.parametrize("matrix", ["ycgco", "ipt"])
def test_colors_that_cannot_be_converted_are_refused(tmp_path, matrix):
    number = {"ycgco": 8, "ipt": 15}[matrix]
    source = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=0.2", "-c:v", "libx264")
    told = ("-bsf:v", f"h264_metadata=matrix_coefficients={number}")
    ffmpeg.run(*source, "-pix_fmt", "yuv420p", *told, tmp_path / "a.mp4")
    assert f"color matrix {number} cannot be read" in frames.probe(str(tmp_path / "a.mp4")).problem
