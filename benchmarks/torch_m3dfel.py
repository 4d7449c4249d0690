"""M3DFEL in PyTorch, the baseline for the timings of rdfer_jax. Requires the extra `torch`.

Sizes follow the paper (Wang et al., CVPR 2023) and torchvision's r3d_18, whose names the trunk uses. See
rdfer_jax/models/m3dfel.py for the formulas.
"""

import torch
from torch import nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)


class _Block(nn.Module):
    """Two 3 x 3 x 3 convolutions and a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv3d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm3d(outer)
        )
        self.conv2 = nn.Sequential(
            nn.Conv3d(outer, outer, 3, 1, 1, bias=False), nn.BatchNorm3d(outer)
        )
        self.downsample = (
            nn.Sequential(nn.Conv3d(inner, outer, 1, stride, bias=False), nn.BatchNorm3d(outer))
            if stride > 1 or inner != outer
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(
            self.conv2(functional.relu(self.conv1(x))) + self.downsample(x), inplace=True
        )


class R3D18(nn.Module):
    """Clips [M, 3, T, H, W] -> features [M, 512]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
        )
        inner = 64
        for stage, width in enumerate(WIDTHS, 1):
            blocks = nn.Sequential(
                _Block(inner, width, 2 if stage > 1 else 1), _Block(width, width, 1)
            )
            self.add_module(f"layer{stage}", blocks)
            inner = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return x.mean(dim=(2, 3, 4))


class DMIN(nn.Module):
    """Dynamic multi-instance normalization of [B, I, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.mean_mix = nn.Parameter(torch.ones(2))
        self.var_mix = nn.Parameter(torch.ones(2))
        self.scale = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = x.float()
        mean = x.mean(1, keepdim=True)
        var = x.var(1, keepdim=True)
        mean_all = mean.mean(2, keepdim=True)
        var_all = var.mean(2, keepdim=True) + mean.var(2, keepdim=True, correction=0)
        m, v = self.mean_mix.softmax(0), self.var_mix.softmax(0)
        mean, var = m[0] * mean + m[1] * mean_all, v[0] * var + v[1] * var_all
        return (x - mean) * torch.rsqrt(var + 1e-5) * self.scale + self.bias


class M3DFEL(nn.Module):
    """Frames uint8 [B, F, H, W, 3] -> logits [B, N]; every four frames are an instance."""

    def __init__(self, num_classes: int, num_frames: int, hidden: int = 512, heads: int = 8):
        super().__init__()
        self.trunk, self.heads = R3D18(), heads
        self.lstm = nn.LSTM(512, hidden, 2, batch_first=True, bidirectional=True)
        self.qkv = nn.Linear(2 * hidden, 6 * hidden, bias=False)
        self.dmin = DMIN(2 * hidden)
        self.pool = nn.Conv1d(num_frames // 4, 1, 3, padding=1)
        self.head = nn.Linear(2 * hidden, num_classes)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """See the class."""
        batch, num_frames, height, width, _ = frames.shape
        x = frames.reshape(-1, 4, height, width, 3).permute(0, 4, 1, 2, 3)
        x = (x.float() / 255).contiguous(memory_format=torch.channels_last_3d)
        x = self.lstm(self.trunk(x).reshape(batch, num_frames // 4, -1))[0]
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        gate = self.dmin(attended.transpose(1, 2).flatten(2)).sigmoid()
        return self.head(self.pool(x * gate)[:, 0].float())
