"""JPEG to square RGB frames."""

import cv2
import numpy as np
import pytest
import simplejpeg
import tiny

from rdfer_jax.media import images
from rdfer_jax.media.files import MediaError
from rdfer_jax.pipeline import decode
from rdfer_jax.pipeline.decode import decode_frame, decode_frames


def encode(rgb):
    done, jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert done
    return jpeg.tobytes()


def test_a_red_image_stays_red():
    frame = decode_frame(tiny.picture(250, 10), 16, "crop")
    assert frame.shape == (16, 16, 3) and frame.dtype == np.uint8
    np.testing.assert_allclose(frame.mean(axis=(0, 1)), [250, 10, 0], atol=4)


@pytest.mark.parametrize("size", [8, 16, 40])
@pytest.mark.parametrize("tall", [False, True])
def test_crop_keeps_the_middle_square_and_stretch_keeps_all(size, tall):
    image = np.zeros((16, 48, 3), np.uint8)
    image[:, :16, 0], image[:, 16:32, 1], image[:, 32:, 2] = 255, 255, 255
    image = image.swapaxes(0, 1) if tall else image

    def read(fit):
        frame = decode_frame(encode(image), size, fit)
        assert frame.shape == (size, size, 3)
        frame = frame.swapaxes(0, 1) if tall else frame
        return frame.mean(axis=0)

    cropped = read("crop")
    middle = cropped[size // 8 : -(size // 8)]
    assert middle[:, 1].min() > 200 and middle[:, [0, 2]].max() < 60
    stretched = read("stretch")
    assert stretched[0, 0] > 200 and stretched[size // 2, 1] > 200 and stretched[-1, 2] > 200


def test_a_grey_image_has_three_equal_channels():
    done, jpeg = cv2.imencode(".jpg", np.full((16, 16), 77, np.uint8))
    assert done
    np.testing.assert_allclose(decode_frame(jpeg.tobytes(), 16, "crop"), 77, atol=2)


def smooth(height, width, seed=0):
    """A picture of soft blobs, as faces are soft."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


#: How OpenCV reads a JPEG at a fraction of its size.
REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2 | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_COLOR_RGB,
}


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (17, 300), (301, 19), (256, 256), (500, 333)]
)
def test_frames_are_bit_identical_to_those_of_opencv(height, width, quality, progressive):
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_QUALITY, quality]
    jpeg = cv2.imencode(".jpg", smooth(height, width), options)[1]
    comment = b"\xff\xfe\x00\x06\xff\xc0ab"  # holds what looks like a start of frame
    data = jpeg.tobytes()
    for least in (0, 16, 32, 40, 112):
        by = next((by for by in (8, 4, 2) if min(height, width) >= by * least > 0), 1)
        expected = cv2.imdecode(jpeg, REDUCED[by])
        for variant in (data, data[:2] + comment + b"\xff" + data[2:]):
            np.testing.assert_array_equal(images.decode_jpeg(variant, least), expected)


def test_rare_color_sampling_is_decoded():
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    data = bytearray(cv2.imencode(".jpg", smooth(64, 64), sampling)[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 11] = 0x31  # three horizontal samples of luminance
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(images.decode_jpeg(bytes(data), 16), expected)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n", b"\xff\xd8" * 9]
)
def test_bytes_that_are_no_jpeg_are_refused(data):
    with pytest.raises(MediaError, match=f"{len(data)} bytes are not a JPEG"):
        images.decode_jpeg(data)


@pytest.mark.parametrize("fit", ["crop", "stretch"])
@pytest.mark.parametrize("side", [63, 64, 100, 128, 200, 256, 700])
def test_a_frame_that_is_read_small_looks_as_if_it_had_been_shrunk(side, fit):
    size, image = 32, smooth(side, side * 5 // 4)
    if fit == "crop":
        left = (image.shape[1] - side) // 2
        whole = image[:, left : left + side]
    else:
        whole = image
    expected = cv2.resize(whole, (size, size), interpolation=cv2.INTER_AREA).astype(int)
    found = decode_frame(encode(image), size, fit)
    assert np.abs(found - expected).mean() < 4 and np.abs(found - expected).max() < 40
    assert decode_frame(encode(image), size, fit).shape == (size, size, 3)


@pytest.mark.parametrize(
    ("side", "factor"),
    [(63, 1), (64, 2), (127, 2), (128, 4), (255, 4), (256, 8)],
)  # fmt: skip
def test_large_frames_are_read_at_a_fraction_of_their_size(monkeypatch, side, factor):
    read, real = [], simplejpeg.decode_jpeg

    def decode_jpeg(*arguments, **named):
        read.append(real(*arguments, **named))
        return read[-1]

    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", decode_jpeg)
    decode_frame(encode(smooth(side, side)), 32, "crop")
    assert [frame.shape for frame in read] == [(-(-side // factor),) * 2 + (3,)]


def test_frames_come_in_the_order_of_the_indices_and_each_is_decoded_once(monkeypatch):
    calls = []
    real = decode.decode_frame
    monkeypatch.setattr(decode, "decode_frame", lambda *a: calls.append(a) or real(*a))
    jpegs = [tiny.picture(0, 12 * i) for i in range(6)]
    frames = decode_frames(jpegs, np.array([0, 0, 2, 5, 5, 2]), 16, "crop")
    _, found = tiny.numbers(frames)
    assert found.tolist() == [0, 0, 2, 5, 5, 2]
    assert len(calls) == 3


@pytest.mark.parametrize("bad", [b"", b"not an image", tiny.picture(0, 0)[:20]])
def test_a_frame_that_is_no_image_is_named(bad):
    with pytest.raises(MediaError, match=f"{len(bad)} bytes are not a JPEG"):
        decode_frame(bad, 16, "crop")
    with pytest.raises(MediaError, match="frame 1: "):
        decode_frames([tiny.picture(0, 0), bad], np.array([0, 1]), 16, "crop")


def test_a_frame_that_is_not_sampled_is_not_decoded():
    frames = decode_frames(
        [tiny.picture(0, 0), b"", tiny.picture(0, 24)], np.array([0, 2]), 16, "crop"
    )
    assert tiny.numbers(frames)[1].tolist() == [0, 2]


@pytest.mark.parametrize("side", [16, 24, 32])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_frames_are_written_where_they_belong(side, fit):
    jpegs = [encode(smooth(side, side + more)) for more in (0, 8)]
    batch = np.zeros((3, 3, 16, 16, 3), np.uint8)
    found = decode_frames(jpegs, np.array([0, 1, 1]), 16, fit, batch[1])
    assert np.shares_memory(found, batch)
    np.testing.assert_array_equal(batch[1], decode_frames(jpegs, np.array([0, 1, 1]), 16, fit))
    assert not batch[::2].any() and batch[1].any(axis=(1, 2, 3)).all()
