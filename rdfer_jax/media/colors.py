"""Video whose colors an ordinary display does not show as they are coded, on its scale: sRGB.

High dynamic range (HDR), as phones record it: ITU-R BT.2100 defines its two kinds, PQ and HLG. What a
display of 1,000 cd/m² would show is compressed into the range of an ordinary one, whose white is the
reference white of ITU-R BT.2408, 203 cd/m², by the tone curve of ITU-R BT.2390-11, section 5.4.1, in each
channel. Below 93 cd/m² it changes nothing. What is brighter than 1,000 cd/m² is white.

Wide gamut without HDR: the primaries of BT.2020 or Display P3 become those of BT.709, in light, which is
the code to the power of 2.4 (ITU-R BT.1886) unless the video says otherwise. Grays stay as they are.

Colors that sRGB does not have are cut off.
"""

import functools

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc

#: The brightest that an HDR display shows, and white on an ordinary one, cd/m².
_PEAK, _WHITE = 1000.0, 203.0
#: Brightness at the top of PQ, cd/m².
_PQ_PEAK = 10_000.0
#: Exponent of the brightness that HLG displays add, at 1,000 cd/m².
_HLG_GAMMA = 1.2
#: Chromaticities x, y of red, green, blue, and of white, which is D65 in all of them.
_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_D65 = (0.3127, 0.3290)
_PRIMARIES = {ColorPrimaries.BT709: _BT709, ColorPrimaries.SMPTE432: _P3}
_WIDE = {ColorPrimaries.BT2020: _BT2020, ColorPrimaries.SMPTE432: _P3}
#: Exponents of the light of an ordinary display, where they differ from BT.1886; 0 is sRGB's curve.
_GAMMA, _GAMMAS = 2.4, {ColorTrc.GAMMA22: 2.2, ColorTrc.GAMMA28: 2.8, ColorTrc.IEC61966_2_1: 0.0}
_LOGARITHMIC = (ColorTrc.LOG, ColorTrc.LOG_SQRT)
#: Steps of light in 16 bits, and FFmpeg's value of the code 1.0 in them: 255, moved up by eight bits.
_MOST, _CODE_ONE = 65_535, 65_280
#: Rows that are converted at once, which stay in the cache of a processor.
_ROWS = 64


def is_hdr(frame: VideoFrame) -> bool:
    """Returns whether a decoded frame says that it is HDR."""
    return frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def is_wide(frame: VideoFrame) -> bool:
    """Returns whether a decoded frame that is not HDR says that its colors are those of a wide gamut."""
    return frame.color_primaries in _WIDE and frame.color_trc not in _LOGARITHMIC


def is_log(frame: VideoFrame) -> bool:
    """Returns whether a decoded frame is on the scale of a camera, to be graded.

    It says so, or it names the primaries of BT.2020 and no scale, as phones do.
    """
    is_unnamed = frame.color_trc == ColorTrc.UNSPECIFIED
    is_unnamed &= frame.color_primaries == ColorPrimaries.BT2020
    return frame.color_trc in _LOGARITHMIC or is_unnamed


def hdr_to_srgb(image: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Returns a frame as an ordinary display shows it, uint8 [H, W, 3] in sRGB.

    Args:
      image: coded R'G'B' in full range, uint16 [H, W, 3], as FFmpeg converts it.
      transfer: ColorTrc.SMPTE2084 (PQ) or ColorTrc.ARIB_STD_B67 (HLG).
      primaries: a ColorPrimaries; those of BT.2020 if it is none of BT.709 and Display P3.
    """
    is_hlg = transfer == ColorTrc.ARIB_STD_B67
    own = _to_xyz(_PRIMARIES.get(ColorPrimaries(primaries), _BT2020))
    luminance = own[1:2].astype(np.float32) if is_hlg else None
    return _converted(image, _light(is_hlg), own, _tones(), luminance)


def wide_to_srgb(image: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """Returns a frame in the gamut of an ordinary display; arguments and result as of hdr_to_srgb.

    Args:
      transfer: a ColorTrc that is not HDR.
      primaries: ColorPrimaries.BT2020 or SMPTE432 (Display P3).
    """
    gamma = _GAMMAS.get(ColorTrc(transfer), _GAMMA)
    own = _to_xyz(_WIDE[ColorPrimaries(primaries)])
    return _converted(image, _display_light(gamma), own, _display_tones(gamma))


def _converted(
    image: np.ndarray,
    light_of: np.ndarray,
    own: np.ndarray,
    tones: np.ndarray,
    luminance: np.ndarray | None = None,
) -> np.ndarray:
    """Goes from codes to light, to BT.709's primaries, and to tones, by tables of 65,536 steps."""
    change = _MOST * np.linalg.inv(_to_xyz(_BT709)) @ own
    change = np.column_stack([change, np.full(3, 0.5)]).astype(np.float32)  # a half, to round
    result = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), _ROWS):
        rows = slice(top, top + _ROWS)
        light = np.take(light_of, image[rows], mode="clip")
        if luminance is not None:  # of a scene; a display makes its dark parts darker still
            light *= cv2.pow(cv2.transform(light, luminance), _HLG_GAMMA - 1)[..., None]
        light = cv2.transform(light, change)
        steps = np.clip(light, 0, _MOST, out=light).astype(np.uint16)
        np.take(tones, steps, out=result[rows], mode="clip")
    return result


def _to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Returns the matrix from RGB to XYZ, float [3, 3]."""
    x, y = np.array((*primaries, _D65)).T
    colors = np.stack([x / y, np.ones(4), (1 - x - y) / y])  # of luminance 1 each
    return colors[:, :3] * np.linalg.solve(colors[:, :3], colors[:, 3])


@functools.cache
def _light(is_hlg: bool) -> np.ndarray:
    """Returns the light of each coded value, float32 [65536]: 1 is the peak of the display or scene."""
    code = np.minimum(np.arange(_MOST + 1) / _CODE_ONE, 1)
    light = _hlg_light(code) if is_hlg else np.minimum(_pq_light(code) / _PEAK, 1)
    return light.astype(np.float32)


def _hlg_light(code: np.ndarray) -> np.ndarray:
    """Returns the light of a scene, from 0 to 1, of HLG: the inverse OETF of BT.2100, table 5."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)


def _pq_light(code: np.ndarray) -> np.ndarray:
    """Returns the light of a display, cd/m², of PQ: the EOTF of BT.2100, table 4."""
    power = code ** (32 / 2523)
    return _PQ_PEAK * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (
        8192 / 1305
    )


def _pq_code(light: np.ndarray | float) -> np.ndarray:
    """Returns the PQ code, from 0 to 1, of a light in cd/m²."""
    power = (np.asarray(light) / _PQ_PEAK) ** (1305 / 8192)
    return ((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@functools.cache
def _tones() -> np.ndarray:
    """Returns the tone of an ordinary picture for each light up to the peak, uint8 [65536]."""
    peak = _pq_code(_PEAK)
    most = _pq_code(_WHITE) / peak
    knee = 1.5 * most - 0.5
    code = _pq_code(np.linspace(0, _PEAK, _MOST + 1)) / peak
    t = np.maximum(code - knee, 0) / (1 - knee)
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * most
    )
    light = _pq_light(np.where(code < knee, code, curve) * peak) / _WHITE
    return _rounded(_srgb_code(light))


@functools.cache
def _display_light(gamma: float) -> np.ndarray:
    """Returns the light of each coded value on an ordinary display, float32 [65536], from 0 to 1."""
    code = np.minimum(np.arange(_MOST + 1) / _CODE_ONE, 1)
    srgb = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return (code**gamma if gamma else srgb).astype(np.float32)


@functools.cache
def _display_tones(gamma: float) -> np.ndarray:
    """Returns the coded value of each step of light, uint8 [65536]: the inverse of _display_light."""
    light = np.linspace(0, 1, _MOST + 1)
    return _rounded(light ** (1 / gamma) if gamma else _srgb_code(light))


def _srgb_code(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _rounded(code: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(code, 0, 1)).astype(np.uint8)
