"""VideoMAE's vision transformer in PyTorch, for timings beside rdfer_jax. Requires the extra `torch`.

Tong et al. (2022), "VideoMAE", arXiv 2203.12602; parameters have the names of its weight files. See
rdfer_jax/models/vit.py for the formulas.
"""

import torch
from torch import nn
from torch.nn import functional

#: VideoMAE-B.
WIDTH, DEPTH, HEADS = 768, 12, 12
PATCH, TUBELET = 16, 2


class _Attention(nn.Module):
    """Self-attention with biases of queries and values only."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [B, P, width] -> the same."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = functional.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    """Two layers with GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Attention and MLP, each after a normalization and with a shortcut."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = _Attention(width, heads), _MLP(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Patches(nn.Module):
    """Frames [B, 3, F, H, W] -> tokens [B, P, width]."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv3d(3, width, (TUBELET, PATCH, PATCH), (TUBELET, PATCH, PATCH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).mT


class VideoMAE(nn.Module):
    """Frames uint8 [B, F, H, W, 3] -> logits [B, N]."""

    def __init__(
        self,
        num_classes: int,
        num_frames: int,
        size: int,
        width: int = WIDTH,
        depth: int = DEPTH,
        heads: int = HEADS,
    ):
        super().__init__()
        self.patch_embed = _Patches(width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        tokens = num_frames // TUBELET * (size // PATCH) ** 2
        place, column = torch.arange(tokens)[:, None], torch.arange(width)
        angle = place / 10000 ** (2 * (column // 2) / width)
        table = torch.where(column % 2 == 0, angle.sin(), angle.cos())
        self.register_buffer("positions", table.float(), persistent=False)

    def tokens(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames float [B, F, H, W, 3] -> tokens [B, P, width], in the order of time, rows and columns."""
        x = self.patch_embed(frames.permute(0, 4, 1, 2, 3))
        return self.blocks(x + self.positions.to(x.dtype))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """See the class."""
        mean = self.tokens(frames.float() / 127.5 - 1).mean(1)
        return self.head(self.fc_norm(mean).float())
