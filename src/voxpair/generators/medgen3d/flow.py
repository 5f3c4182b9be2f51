"""Flow between slices without learnt weights: pyramidal Lucas-Kanade, and the warp that goes with it.

Takes pairs of slices with any number of channels (an image, or an image with its label maps); gives for every voxel
of one slice where its content lies in the other. It stands where vid2vid uses a pretrained FlowNet2.

    symbol   name       meaning
    I_0      fixed      slice t
    I_1      moving     slice t-1
    w        flow       displacement in voxels along X and Y: moving(p + w(p)) is about fixed(p)
    J        warped     moving(p + w(p)), with the w of the iteration before
    eps      DAMPING    keeps w where nothing can be seen to move

    per level, coarse to fine, in a Gaussian window about every voxel, summed over channels:
        (sum of grad J grad J^T + eps 1) d = sum of grad J (I_0 - J),    w <- w + d

Sources: Lucas and Kanade 1981; the pyramid with repeated warping is that of Bouguet 2001 (Intel's tracker).

Shapes: B pairs, C channels, X Y slice axes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.layers import GaussianFilter
from torch import Tensor

WINDOW_VOXELS = 3.0  # sigma of the window: 2 doubles the error under noise, on phantom slices moved by 1 to 3 voxels
DAMPING = 1e-5  # of squared gradients in units of [0, 1] per voxel; soft tissue in a CT window has 1e-4
ITERATIONS = 4
SMALLEST_SIDE = 8  # voxels of the coarsest level
LARGEST_STEP = 1.0  # voxels per iteration: what a linear model of an image can be trusted with
TRUSTED_ERROR = 0.04  # of a warped image in [0, 1]; vid2vid's 0.02 for three squared channels in [-1, 1]


def warp(moving: Tensor, flow: Tensor) -> Tensor:
    """Return ``moving(p + flow(p))``: linear between voxels, the border value outside.

    Args:
        moving: (B, C, X, Y).
        flow: (B, 2, X, Y) in voxels along X and Y.

    >>> ramp = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 1, 4, 3)
    >>> warp(ramp, torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 3))[0, 0, :, 0].tolist()
    [1.0, 2.0, 3.0, 3.0]
    """
    axes = [torch.arange(n, device=flow.device, dtype=torch.float32) for n in flow.shape[2:]]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")) + flow.float()
    half_sides = torch.tensor([max(n - 1, 1) / 2 for n in flow.shape[2:]], device=flow.device).reshape(2, 1, 1)
    grid = (positions / half_sides - 1).flip(1).movedim(1, -1)  # torch counts the axes of a grid from the last
    return F.grid_sample(moving.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)


@torch.no_grad()
def optical_flow(fixed: Tensor, moving: Tensor) -> Tensor:
    """Return the flow (B, 2, X, Y) that brings ``moving`` onto ``fixed``, both (B, C, X, Y).

    Computed in float32: bfloat16 is coarser than the differences that it is made of.
    """
    with torch.autocast(fixed.device.type, enabled=False):
        pyramid = [(fixed.float(), moving.float())]
        while min(pyramid[-1][0].shape[2:]) >= 2 * SMALLEST_SIDE:
            pyramid.append(tuple(_halved(level) for level in pyramid[-1]))
        flow = torch.zeros_like(pyramid[-1][0][:, :1]).repeat(1, 2, 1, 1)
        for level_fixed, level_moving in reversed(pyramid):
            flow = resize_flow(flow, level_fixed.shape[2:])
            for _ in range(ITERATIONS):
                flow = flow + _increment(level_fixed, warp(level_moving, flow))
        return flow


def confidence(fixed: Tensor, moving: Tensor, flow: Tensor) -> Tensor:
    """Return (B, 1, X, Y): 1 where the warped image agrees with the fixed one, 0 where the flow explains nothing.

    Args:
        fixed, moving: images (B, 1, X, Y) in [0, 1]. Their difference is smoothed first, since noise differs from
            slice to slice wherever the flow is right.
    """
    return (_smooth(fixed - warp(moving, flow)).abs() < TRUSTED_ERROR).float()


def resize_flow(flow: Tensor, shape: tuple[int, int] | torch.Size) -> Tensor:
    """Return the flow on a grid of another ``shape`` over the same field of view, in voxels of that grid."""
    if tuple(flow.shape[2:]) == tuple(shape):
        return flow
    ratio = torch.tensor([new / old for new, old in zip(shape, flow.shape[2:])], device=flow.device)
    resized = F.interpolate(flow, size=tuple(shape), mode="bilinear", align_corners=False)
    return resized * ratio.reshape(1, 2, 1, 1)


def _increment(fixed: Tensor, warped: Tensor) -> Tensor:
    """Solve the 2 by 2 equations of the module's head at every voxel; returns d, (B, 2, X, Y)."""
    gx, gy = torch.gradient(warped, dim=(2, 3))
    difference = fixed - warped
    products = (gx * gx, gx * gy, gy * gy, gx * difference, gy * difference)
    sums = _smooth(torch.stack([p.sum(1) for p in products], 1))
    xx, xy, yy, xd, yd = sums.unbind(1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy  # at least DAMPING squared
    step = torch.stack([yy * xd - xy * yd, xx * yd - xy * xd], 1) / determinant[:, None]
    return step * (LARGEST_STEP / step.norm(dim=1, keepdim=True).clamp(min=LARGEST_STEP))


def _smooth(slices: Tensor) -> Tensor:
    return GaussianFilter(2, WINDOW_VOXELS).to(slices.device)(slices)


def _halved(slices: Tensor) -> Tensor:
    return F.interpolate(slices, size=[(n + 1) // 2 for n in slices.shape[2:]], mode="area")
