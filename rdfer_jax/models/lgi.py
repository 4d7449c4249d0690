"""LGI-Former, the video transformer of MAE-DFER (Sun et al. 2023, arXiv 2307.02227, section 3.2).

The tokens of a clip are split into regions of neighboring steps and places, each with a learned messenger
token. In a block, the tokens and the messenger of a region attend to each other (local); the messengers
attend to each other (global); and all tokens attend to all messengers (interaction). So attention costs a
fraction of that among all tokens of the clip.

| trunk | weights of | tokens | pooling |
|---|---|---|---|
| `maedfer_b16` | MAE-DFER | of two frames, fixed positions, no key bias | mean of the messengers |

A feature is that of two steps, four frames: the mean of the messengers of the regions side by side,
normalized. MAE-DFER classifies the mean of all messengers.

Letters: as in `vit`, and R regions, P tokens of a region, X = N R.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdfer_jax.models.vit import VIDEO, Block, ViT

#: Steps, rows and columns of tokens of a region.
REGION = (2, 5, 10)


class LGIBlock(Block):
    """Local, global and local-global attention and a perceptron: x_NRLD -> x_NRLD, L = 1 + P.

    The first token of each region is its messenger. Attributes are those of Block. Branches are dropped for
    single regions in local attention and perceptron, else for whole videos.
    """

    @nn.compact
    def __call__(self, x_NRLD: jax.Array, train: bool) -> jax.Array:
        """Applies the block."""
        videos, regions, length, width = x_NRLD.shape
        x_XLD = x_NRLD.reshape(videos * regions, length, width)
        y_XLD = self._norm("norm_local", x_XLD)
        local_XLD = self._attend(y_XLD, y_XLD, train, "local_")
        x_XLD += self._branch(local_XLD, "scale_local", train)

        messenger_NRD = x_XLD[:, 0].reshape(videos, regions, width)
        y_NRD = self._norm("norm_global", messenger_NRD)
        global_NRD = self._attend(y_NRD, y_NRD, train, "global_")
        messenger_NRD += self._branch(global_NRD, "scale_global", train)

        token_NLD = x_XLD[:, 1:].reshape(videos, -1, width)
        y_NLD = self._norm("norm_tokens", token_NLD)
        context_NRD = self._norm("norm_messengers", messenger_NRD)
        informed_NLD = self._attend(y_NLD, context_NRD, train, "interact_")
        token_NLD += self._branch(informed_NLD, "scale_interact", train)

        token_NRPD = token_NLD.reshape(videos, regions, -1, width)
        x_NRLD = jnp.concatenate([messenger_NRD[:, :, None], token_NRPD], axis=2)
        x_XLD = x_NRLD.reshape(x_XLD.shape)
        x_XLD += self._branch(self._perceive(x_XLD, train), "scale_perceptron", train)
        return x_XLD.reshape(x_NRLD.shape)


class LGIFormer(ViT):
    """An LGI-Former applied to clips; see the module's docstring. Attributes are those of ViT.

    The number of regions is that of the clips of the first call, because each has a messenger of its own.
    """

    block_type = LGIBlock

    @property
    def tubelet(self) -> int:
        """Frames of a token."""
        return self.frames_per_feature // REGION[0]

    def _arranged(self, x_NLD: jax.Array, steps: int, rows: int, columns: int) -> jax.Array:
        """Returns the tokens by region, behind the messenger of each: x_NRLD."""
        (time, high, wide), videos = REGION, x_NLD.shape[0]
        if rows % high or columns % wide:
            raise ValueError(
                f"config.augment.size: expected a multiple of {wide * self.patch}, the region of "
                "config.model.trunk in pixels, got frames of "
                f"{rows * self.patch} x {columns * self.patch}"
            )
        grid = (videos, steps // time, time, rows // high, high, columns // wide, wide, self.width)
        x = jnp.moveaxis(x_NLD.reshape(grid), (3, 5), (2, 3))
        x_NRPD = x.reshape(videos, -1, time * high * wide, self.width)
        shape = (x_NRPD.shape[1], self.width)
        messenger_RD = self.param("messengers", nn.initializers.normal(0.02), shape)
        messenger_NR1D = jnp.broadcast_to(
            messenger_RD[:, None].astype(self.dtype), (*x_NRPD.shape[:2], 1, self.width)
        )
        return jnp.concatenate([messenger_NR1D, x_NRPD], axis=2)

    def _pooled(self, x_NRLD: jax.Array, steps: int) -> jax.Array:
        messenger_NRD = x_NRLD[:, :, 0].astype(jnp.float32)
        at_once = messenger_NRD.reshape(len(x_NRLD), steps // REGION[0], -1, self.width)
        return jnp.mean(at_once, axis=2)


#: Name of a trunk -> its constructor, see `trunks.create`.
TRUNKS: dict[str, Callable[..., nn.Module]] = {
    "maedfer_b16": functools.partial(
        LGIFormer,
        width=512,
        depth=16,
        heads=8,
        patch=16,
        **VIDEO | {"frames_per_feature": 2 * REGION[0]},
    ),
}
