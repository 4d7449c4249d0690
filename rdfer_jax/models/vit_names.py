"""The names of the arrays of pretrained vision transformers, and what they are in `vit`.

The table has, for each part of our trunk, the names that files use:

- timm, whose names MAE, DINOv2, S2D, VideoMAE and S4D (UniLearn) use, too, and MARLIN with a few others;
- Hugging Face transformers (VideoMAE, ViT, DINOv2, CLIP), by its names of versions 4 and 5;
- OpenAI and open_clip (CLIP, FaRL): the image tower of the whole network, or alone;
- MAE-DFER, whose blocks have three attentions (`lgi`).

Kernels are [out, in] or [out, in, (kt,) kh, kw] there; queries, keys and values may be one array of three,
or keys and values one of two.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

#: Prefixes that wrappers and networks around the trunk add.
_PREFIX = re.compile(
    r"^(?:(?:module|backbone|model|vit|videomae|dinov2|visual|vision_model|encoder(?!\.layers?\.))\.)+"
)
#: The towers of images in networks of images and text: where there is one, the rest is not the trunk.
_TOWER = re.compile(r"(?:^|\.)(?:visual|vision_model)\.")
_BLOCK = re.compile(
    r"^(?:blocks|layers|encoder\.layer|encoder\.layers|transformer\.resblocks)\.(\d+)\.(.+)$"
)

#: Modules outside of the blocks: our name -> theirs.
_MODULES = {
    "embedding/patch": (
        "patch_embed.proj",
        "patch_embedding.projection",
        "embeddings.patch_embeddings.projection",
        "embeddings.patch_embedding",
        "conv1",
    ),
    "pre_norm": ("ln_pre", "pre_layrnorm"),
    "norm": ("norm", "fc_norm", "layernorm", "ln_post", "post_layernorm"),
}
#: Modules of a block.
_BLOCK_MODULES = {
    "norm1": ("norm1", "layernorm_before", "layer_norm1", "ln_1"),
    "norm2": ("norm2", "layernorm_after", "layer_norm2", "ln_2"),
    "query/dense": ("attention.attention.query", "attention.q_proj", "self_attn.q_proj"),
    "key/dense": ("attention.attention.key", "attention.k_proj", "self_attn.k_proj"),
    "value/dense": ("attention.attention.value", "attention.v_proj", "self_attn.v_proj"),
    "out/dense": (
        "attn.proj",
        "attention.output.dense",
        "attention.o_proj",
        "self_attn.out_proj",
        "attn.out_proj",
    ),
    "fc1/dense": ("mlp.fc1", "intermediate.dense", "mlp.c_fc", "mlp.layers.0.linear"),
    "fc2/dense": ("mlp.fc2", "output.dense", "mlp.c_proj", "mlp.layers.1.linear"),
    "norm_local": ("first_attn_norm0",),
    "norm_global": ("second_attn_norm0",),
    "norm_tokens": ("third_attn_norm0",),
    "norm_messengers": ("third_attn_norm1",),
    "local_query/dense": ("first_attn.q",),
    "local_out/dense": ("first_attn.proj",),
    "global_query/dense": ("second_attn.q",),
    "global_out/dense": ("second_attn.proj",),
    "interact_query/dense": ("third_attn.q",),
    "interact_out/dense": ("third_attn.proj",),
}
#: Single arrays: our name -> theirs.
_ARRAYS = {
    "embedding/class_token": (
        "cls_token",
        "embeddings.cls_token",
        "class_embedding",
        "embeddings.class_embedding",
    ),
    "embedding/positions": (
        "pos_embed",
        "embeddings.position_embeddings",
        "positional_embedding",
        "embeddings.position_embedding.weight",
    ),
    "messengers": ("lg_region_tokens",),
}
_BLOCK_ARRAYS = {
    "query/dense/bias": ("attn.q_bias", "attention.attention.q_bias"),
    "value/dense/bias": ("attn.v_bias", "attention.attention.v_bias"),
    "scale1": ("ls1.gamma", "layer_scale1.lambda1"),
    "scale2": ("ls2.gamma", "layer_scale2.lambda1"),
    "local_query/dense/bias": ("first_attn.q_bias",),
    "local_value/dense/bias": ("first_attn.v_bias",),
    "global_query/dense/bias": ("second_attn.q_bias",),
    "global_value/dense/bias": ("second_attn.v_bias",),
    "interact_query/dense/bias": ("third_attn.q_bias",),
    "interact_value/dense/bias": ("third_attn.v_bias",),
}
#: Several layers in one array: their name -> ours, in order.
_QKV = ("query", "key", "value")
_FUSED = {
    "attn.qkv.weight": _QKV,
    "attn.qkv.bias": _QKV,
    "attn.in_proj_weight": _QKV,
    "attn.in_proj_bias": _QKV,
    "first_attn.kv.weight": ("local_key", "local_value"),
    "second_attn.kv.weight": ("global_key", "global_value"),
    "third_attn.kv.weight": ("interact_key", "interact_value"),
}


def _inverse(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {theirs: ours for ours, names in table.items() for theirs in names}


_OUR_MODULE, _OUR_BLOCK_MODULE = _inverse(_MODULES), _inverse(_BLOCK_MODULES)
_OUR_ARRAY, _OUR_BLOCK_ARRAY = _inverse(_ARRAYS), _inverse(_BLOCK_ARRAYS)


class Place(NamedTuple):
    """Where an array belongs.

    Attributes:
      name: of our parameter in the trunk, such as block0/query/dense/kernel.
      part: which part of the array, and of how many: the queries', keys' or values'; None for all of it.
      transposed: whether the array is a kernel.
    """

    name: str
    part: tuple[int, int] | None = None
    transposed: bool = False


def is_vit(names: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of a vision transformer."""
    return any(_BLOCK.match(_PREFIX.sub("", name)) for name in names)


def places(names: Mapping[str, np.ndarray]) -> dict[str, list[Place]]:
    """Returns where the arrays of a file belong, by name; an empty list if not in a trunk."""
    has_tower = any(_TOWER.search(name) for name in names)
    return {
        name: []
        if has_tower and not _TOWER.search(name)
        else _places(_PREFIX.sub("", name), array.ndim)
        for name, array in names.items()
    }


def _places(name: str, ndim: int) -> list[Place]:
    block, modules, arrays = "", _OUR_MODULE, _OUR_ARRAY
    if match := _BLOCK.match(name):
        block, name = f"block{match[1]}/", match[2]
        modules, arrays = _OUR_BLOCK_MODULE, _OUR_BLOCK_ARRAY
        if ours := _FUSED.get(name):
            leaf = "kernel" if ndim > 1 else "bias"
            return [
                Place(f"{block}{one}/dense/{leaf}", (part, len(ours)), ndim > 1)
                for part, one in enumerate(ours)
            ]
    if name in arrays:
        return [Place(block + arrays[name])]
    module, _, leaf = name.rpartition(".")
    if module not in modules:
        return []
    if leaf == "weight":
        leaf = "kernel" if ndim > 1 else "scale"
    return [Place(f"{block}{modules[module]}/{leaf}", transposed=ndim > 1)]


def converted(array: np.ndarray, place: Place) -> np.ndarray:
    """Returns the array, or its part, with the axes of our parameter."""
    if place.part is not None:
        part, parts = place.part
        array = np.split(array, parts)[part]
    if place.transposed:
        return np.moveaxis(array, (0, 1), (-1, -2))
    return array.reshape(array.shape[next((i for i, n in enumerate(array.shape) if n > 1), 0) :])


def exported(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a video trunk by the names of VideoMAE's authors, with PyTorch's axes.

    The inverse of `places` and `converted`; these names are the first of each row of the table.

    Args:
      arrays: by our names, such as block0/query/dense/kernel.
    """
    found: dict[str, np.ndarray] = {}
    for ours, array in arrays.items():
        match = re.fullmatch(r"block(\d+)/(.+)", ours)
        block, name = (f"blocks.{match[1]}.", match[2]) if match else ("", ours)
        module, _, leaf = name.rpartition("/")
        if name in _BLOCK_ARRAYS:
            theirs = _BLOCK_ARRAYS[name][0]
        elif module in ("key/dense", "value/dense"):
            continue  # with the queries'
        elif module == "query/dense":
            theirs = "attn.qkv.weight"
            parts = [arrays[ours.replace("query", part)] for part in _QKV]
            array = np.concatenate(parts, axis=-1)
        else:
            modules = _BLOCK_MODULES if match else _MODULES
            theirs = f"{modules[module][0]}.{'bias' if leaf == 'bias' else 'weight'}"
        if leaf == "kernel":
            array = np.moveaxis(array, (-1, -2), (0, 1))
        found[block + theirs] = np.asarray(array)
    return found


def resized_positions(positions_LD: np.ndarray, length: int) -> np.ndarray:
    """Returns the positions of a class token and of a square of patches, for another square.

    Bicubic with anti-aliasing, as timm's resample_abs_pos_embed.

    Args:
      positions_LD: float [1 + n n, D].
      length: 1 + m m.

    Raises:
      ValueError: one of both is not that of a square.
    """
    old, new = (round((count - 1) ** 0.5) for count in (len(positions_LD), length))
    if (old**2 + 1, new**2 + 1) != (len(positions_LD), length):
        raise ValueError(f"{len(positions_LD)} positions cannot be resized to {length}")
    grid = np.asarray(positions_LD[1:], np.float32).reshape(old, old, -1)
    grid = np.asarray(jax.image.resize(grid, (new, new, grid.shape[-1]), "bicubic", antialias=True))
    return np.concatenate([positions_LD[:1], grid.reshape(new * new, -1)])
