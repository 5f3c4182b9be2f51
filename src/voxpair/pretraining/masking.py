"""Which voxels a network must guess: masks drawn as pure functions of their settings and a generator.

Takes a grid, gives a boolean mask of its shape; **True means hidden**, everywhere. A hidden voxel is set to 0,
which the preprocessor uses for the low end of its window (air, for CT).

    word     Ikuta 2024, section 3.3               here
    paper    25 blocks, each applied with          ``paper_mask``: every block at a random place,
             probability 0.8, 8 to 16 pixels       sides drawn per axis, U{8..16}; blocks may overlap
    blocks   -                                     ``block_mask``: a share U(0.6, 0.9) of a grid of cubes

The paper's blocks hide 2 to 5 % of a volume of 96 to 128 voxels a side; the share of ``block_mask`` follows masked
autoencoders for volumes (He et al. 2022; Wald et al. 2024), where hiding most of the image makes the better encoder.

Shapes: X Y Z volume axes.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from voxpair.core.settings import Settings

Grid = tuple[int, int, int]


class MaskSettings(Settings):
    """How to hide voxels.

    Attributes:
        kind: "blocks" hides a share of a grid of cubes, "paper" scatters blocks as Ikuta et al. do.
        share: lowest and highest share of cubes hidden ("blocks").
        cube: side of a cube in voxels; None adapts it to the grid, see :func:`cube_side` ("blocks").
        count, probability: blocks tried, and the chance that each is applied ("paper").
        side: smallest and largest side of a block in voxels, both included ("paper").
        depth: what a block does along Z, on which the paper is silent: "cube" draws a side as along X and Y,
            "full" hides all slices, "slice" only one ("paper").
    """

    kind: Literal["blocks", "paper"] = "blocks"
    share: tuple[float, float] = (0.6, 0.9)
    cube: int | None = Field(None, ge=1)
    count: int = Field(25, ge=1)
    probability: float = Field(0.8, gt=0, le=1)
    side: tuple[int, int] = (8, 16)
    depth: Literal["cube", "full", "slice"] = "cube"

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        if not 0 < self.share[0] <= self.share[1] < 1:
            raise ValueError(f"share must be (low, high) with 0 < low <= high < 1, got {self.share}")
        if not 1 <= self.side[0] <= self.side[1]:
            raise ValueError(f"side must be (low, high) with 1 <= low <= high, got {self.side}")
        return self


def draw_mask(settings: MaskSettings, grid: Grid, generator: torch.Generator) -> Tensor:
    """Draw one mask of the kind that ``settings`` name: bool, shape ``grid`` (X, Y, Z), True = hidden."""
    return (paper_mask if settings.kind == "paper" else block_mask)(settings, grid, generator)


def paper_mask(settings: MaskSettings, grid: Grid, generator: torch.Generator) -> Tensor:
    """Draw ``count`` blocks at random places, each applied with ``probability`` (Ikuta et al. 2024, section 3.3).

    A block always lies inside the grid; along an axis shorter than the side drawn it takes the whole axis.

    >>> mask = paper_mask(MaskSettings(kind="paper"), (64, 64, 64), torch.Generator().manual_seed(0))
    >>> mask.shape, mask.dtype, 0.02 < mask.float().mean() < 0.2
    (torch.Size([64, 64, 64]), torch.bool, tensor(True))
    """
    hidden = torch.zeros(grid, dtype=torch.bool)
    for _ in range(settings.count):
        applied = bool(torch.rand((), generator=generator) < settings.probability)
        sides = [_integer(*settings.side, generator) for _ in grid]
        if settings.depth != "cube":
            sides[2] = grid[2] if settings.depth == "full" else 1
        block = []
        for length, side in zip(grid, sides):
            side = min(side, length)
            start = _integer(0, length - side, generator)
            block.append(slice(start, start + side))
        if applied:  # decided before, drawn always: one block more or less does not move the others
            hidden[tuple(block)] = True
    return hidden


def block_mask(settings: MaskSettings, grid: Grid, generator: torch.Generator) -> Tensor:
    """Cut the grid into cubes and hide a share of them, drawn uniformly from ``share``.

    At least one cube is hidden and at least one is left to see.

    >>> mask = block_mask(MaskSettings(share=(0.75, 0.75)), (32, 32, 32), torch.Generator().manual_seed(0))
    >>> mask.float().mean()
    tensor(0.7500)
    """
    cube = settings.cube or cube_side(grid)
    cells = [-(-length // cube) for length in grid]
    total = cells[0] * cells[1] * cells[2]
    low, high = settings.share
    share = low + (high - low) * float(torch.rand((), generator=generator))
    count = min(max(1, round(share * total)), total - 1)
    hidden = torch.zeros(total, dtype=torch.bool)
    hidden[torch.randperm(total, generator=generator)[:count]] = True
    hidden = hidden.reshape(cells)
    for axis in range(3):
        hidden = hidden.repeat_interleave(cube, dim=axis)
    return hidden[: grid[0], : grid[1], : grid[2]].contiguous()


def cube_side(grid: Grid) -> int:
    """Return the cube's side for a grid: an eighth of its shortest axis as a power of two, 4 to 16 voxels.

    Wald et al. 2024 hide cubes of 16 in patches of 160; smaller grids get smaller cubes so that enough remain to
    choose from. Axes below 8 voxels do not count: a cube takes all of them.

    >>> cube_side((160, 160, 160)), cube_side((40, 56, 40)), cube_side((128, 128, 6)), cube_side((6, 6, 1))
    (16, 4, 16, 3)
    """
    long_axes = [length for length in grid if length >= 8]
    if not long_axes:
        return max(1, max(grid) // 2)
    return min(16, max(4, 2 ** ((min(long_axes) // 8).bit_length() - 1)))


def hide(image: Tensor, hidden: Tensor) -> Tensor:
    """Return ``image`` with its hidden voxels set to 0; shapes must broadcast."""
    return image.masked_fill(hidden, 0.0)


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Draw an integer from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
