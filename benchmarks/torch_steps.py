"""Train and predict steps of a PyTorch network, to be timed. Requires the extra `torch`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def steps(
    model: nn.Module, num_videos: int, num_frames: int, size: int, compiled: bool
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Returns a train step and a predict step, functions that wait for the device.

    On a GPU: bfloat16 autocast, channels last, and torch.compile if compiled. On a CPU: float32, all cores.

    Args:
      model: frames uint8 [B, F, H, W, 3] -> logits [B, 7].
      num_videos: B.
      num_frames: F.
      size: H and W.
      compiled: whether to use torch.compile.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    model = model.to(device).to(memory_format=torch.channels_last_3d)
    network = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-4, weight_decay=0.05, fused=device == "cuda"
    )
    frames = torch.randint(0, 256, (num_videos, num_frames, size, size, 3), dtype=torch.uint8)
    frames, labels = frames.to(device), torch.arange(num_videos, device=device) % 7
    autocast = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")

    def wait(x: torch.Tensor) -> float:
        return float(x.detach().sum())  # copies to the host, and so waits

    def train() -> float:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            logits = network(frames)
        loss = functional.cross_entropy(logits, labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return wait(loss)

    def predict() -> float:
        model.eval()
        with torch.inference_mode(), autocast:
            return wait(network(frames))

    return train, predict
