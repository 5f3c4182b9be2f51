"""What networks compute in: Lightning Fabric's engine for a device, and bfloat16 where it is both fast and right.

Takes a device and a precision; gives an engine. One convolution is kept out of bfloat16: the weight gradient of a 3D
convolution of 3 x 3 x 3 whose input is two voxels long reads memory that nobody has written (oneDNN 3.12 in torch
2.13.0, processors with AVX512-BF16, 16 channels or more, first spatial axis), so that fits end in NaN, or worse, differ
from run to run.
"""

from __future__ import annotations

import logging

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn


def make_fabric(device: str, precision: str) -> Fabric:
    """Return Lightning Fabric's engine for ``device`` ("cpu", "cuda", "cuda:1", "mps")."""
    kind, _, index = device.partition(":")
    if precision == "auto":
        precision = "bf16-mixed" if computes_bfloat16(kind) else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would announce its precision at every fit
    return Fabric(accelerator=kind, devices=[int(index)] if index else 1, precision=precision)


def computes_bfloat16(kind: str) -> bool:
    """True where bfloat16 is faster than float32, not merely accepted."""
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and torch.cpu._is_avx512_bf16_supported()


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return a context in which networks compute as in a fit with this ``precision`` on ``device``."""
    half = precision == "bf16-mixed" or (precision == "auto" and computes_bfloat16(device.type))
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


class Conv3d(nn.Conv3d):
    """A convolution that computes in float32 where bfloat16 is wrong; see the head of this file."""

    def forward(self, volume: Tensor) -> Tensor:
        if volume.shape[2] == 2 and volume.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(volume.float())
        return super().forward(volume)


def mend_convolutions(network: nn.Module) -> None:
    """Make every 3D convolution of ``network``, whoever built it, a :class:`Conv3d`; weights stay where they are."""
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Conv3d
