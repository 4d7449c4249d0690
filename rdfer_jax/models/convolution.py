"""A 3-D convolution (time and space) that is also fast on a CPU.

On a CPU, XLA's 3-D convolutions are several times slower than equivalent 2-D ones, and their gradients up
to twenty times (docs/evidence/performance.md). So on a CPU the frames that a kernel spans are concatenated
as channels, and a 2-D convolution does the work. On other platforms XLA's 3-D convolution is used.

Letters: N videos, F frames, H W image, I input channels, T frames of the kernel, O output channels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], ...]


def conv3d(
    x_NFHWI: jax.Array, kernel_THWIO: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """Convolves; a replacement for lax.conv_general_dilated in flax.linen.Conv.

    Args:
      x_NFHWI: frames of videos, or of snippets.
      kernel_THWIO: the kernel; dilation and groups are not supported.
      strides: along F, H and W.
      padding: zeros before and after, along F, H and W.

    Returns:
      [N, F', H', W', O].
    """
    pads = tuple((int(before), int(after)) for before, after in padding)
    return _conv3d(x_NFHWI, kernel_THWIO, tuple(strides), pads)


# The custom gradient rule chooses the platform once for the forward and once for the backward pass.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv3d(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(frames_as_channels, strides=strides, pads=pads),
        default=functools.partial(plain, strides=strides, pads=pads),
    )


def _forward(x, kernel, strides, pads):
    return _conv3d(x, kernel, strides, pads), (x, kernel)


def _backward(strides, pads, kept, grad):
    def of(convolve):
        def pull(x, kernel, grad):
            return jax.vjp(functools.partial(convolve, strides=strides, pads=pads), x, kernel)[1](
                grad
            )

        return pull

    return lax.platform_dependent(*kept, grad, cpu=of(frames_as_channels), default=of(plain))


_conv3d.defvjp(_forward, _backward)


def plain(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads) -> jax.Array:
    """Convolves with XLA's 3-D convolution."""
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def frames_as_channels(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], pads: Pads
) -> jax.Array:
    """Convolves with a 2-D convolution over H and W of T times as many channels.

    Frames of the kernel that only ever meet padding, such as two of three if there is one frame, are left
    out.
    """
    (before, after), stride, span = pads[0], strides[0], kernel.shape[0]
    real = range(before, before + x.shape[1])
    x = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))
    frames = (x.shape[1] - span) // stride + 1
    last = (frames - 1) * stride + 1
    taps = [tap for tap in range(span) if set(range(tap, tap + last, stride)) & set(real)]
    x = jnp.concatenate([x[:, tap : tap + last : stride] for tap in taps], axis=-1)
    kernel = kernel[taps[0] : taps[-1] + 1]
    y = lax.conv_general_dilated(
        x.reshape(-1, *x.shape[2:]),
        jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1]),
        strides[1:],
        pads[1:],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y.reshape(-1, frames, *y.shape[1:])
