"""Masks hide what they say: share, bounds, sides, and nothing but the generator decides."""

import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from voxpair.pretraining.masking import MaskSettings, block_mask, cube_side, draw_mask, hide, paper_mask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["paper", "blocks"])
def test_the_generator_alone_decides(kind):
    settings, grid = MaskSettings(kind=kind), (40, 56, 41)
    torch.manual_seed(0)
    first = draw_mask(settings, grid, generator(3))
    torch.manual_seed(1)
    assert torch.equal(first, draw_mask(settings, grid, generator(3)))
    assert not torch.equal(first, draw_mask(settings, grid, generator(4)))
    assert first.dtype == torch.bool and first.shape == grid


def test_a_certain_paper_block_is_one_box_with_sides_in_bounds():
    settings = MaskSettings(kind="paper", count=1, probability=1.0)
    sides, touches = [], 0
    for seed in range(200):
        mask = paper_mask(settings, (24, 32, 20), generator(seed)).numpy()
        (box,) = ndimage.find_objects(mask.astype(int))
        shape = tuple(s.stop - s.start for s in box)
        assert mask.sum() == shape[0] * shape[1] * shape[2]  # a full box
        sides += shape
        touches += any(s.start == 0 for s in box)
    assert min(sides) == 8 and max(sides) == 16
    assert touches > 0  # the border can be hidden too


def test_the_paper_applies_each_block_with_its_probability():
    """One-voxel blocks in a huge grid hardly meet, so hidden voxels count the blocks applied: 25 * 0.8 = 20."""
    settings = MaskSettings(kind="paper", side=(1, 1))
    counts = torch.tensor([paper_mask(settings, (64, 64, 64), generator(s)).sum() for s in range(200)]).float()
    assert counts.max() <= 25
    assert abs(counts.mean() - 20) < 3 * 2 / 200**0.5 + 0.01  # binomial: standard deviation 2


def test_the_paper_hides_a_few_percent_of_96_cubed():
    """25 * 0.8 blocks of mean side 12: about 20 * 12^3 / 96^3 = 3.9 %, less what overlaps."""
    shares = [paper_mask(MaskSettings(kind="paper"), (96, 96, 96), generator(s)).float().mean() for s in range(40)]
    assert 0.034 < sum(shares) / 40 < 0.041


@pytest.mark.parametrize(("depth", "expected"), [("full", 30), ("slice", 1)])
def test_depth_options_of_the_paper_mask(depth, expected):
    settings = MaskSettings(kind="paper", count=1, probability=1.0, depth=depth)
    for seed in range(10):
        mask = paper_mask(settings, (32, 32, 30), generator(seed))
        assert mask.any(dim=0).any(dim=0).sum() == expected


def test_blocks_never_leave_a_grid_thinner_than_they_are():
    mask = paper_mask(MaskSettings(kind="paper", count=1, probability=1.0), (32, 32, 5), generator())
    assert mask.any(dim=0).any(dim=0).all()


@pytest.mark.parametrize("grid", [(32, 32, 32), (64, 32, 40)])
def test_block_mask_hides_its_share_in_whole_cubes(grid):
    cube = 8
    for seed in range(30):
        mask = block_mask(MaskSettings(cube=cube), grid, generator(seed))
        cells = mask.unfold(0, cube, cube).unfold(1, cube, cube).unfold(2, cube, cube).flatten(3).float().mean(-1)
        assert set(cells.unique().tolist()) <= {0.0, 1.0}
        assert 0.6 - 0.5 / cells.numel() <= mask.float().mean() <= 0.9 + 0.5 / cells.numel()


def test_block_mask_draws_the_share_anew():
    shares = [float(block_mask(MaskSettings(), (64, 64, 64), generator(s)).float().mean()) for s in range(40)]
    assert max(shares) - min(shares) > 0.2 and 0.7 < sum(shares) / 40 < 0.8


@pytest.mark.parametrize("grid", [(40, 56, 40), (16, 16, 16), (9, 64, 33), (64, 64, 3), (5, 4, 3)])
@pytest.mark.parametrize("share", [(0.001, 0.001), (0.999, 0.999)])
def test_something_is_hidden_and_something_seen_on_any_grid(grid, share):
    mask = block_mask(MaskSettings(share=share), grid, generator())
    assert mask.any() and not mask.all()
    assert cube_side(grid) <= max(grid) // 2


def test_hide_sets_hidden_voxels_to_zero_and_no_others():
    image = torch.rand(2, 1, 8, 8, 8) + 0.1
    mask = torch.zeros(2, 1, 8, 8, 8, dtype=torch.bool)
    mask[1, 0, 2:4] = True
    masked = hide(image, mask)
    assert torch.equal(masked == 0, mask) and torch.equal(masked[~mask], image[~mask])


@pytest.mark.parametrize("values", [{"share": (0.9, 0.6)}, {"share": (0.5, 1.0)}, {"side": (0, 3)}, {"side": (9, 8)}])
def test_ranges_that_make_no_sense_are_refused(values):
    with pytest.raises(ValidationError):
        MaskSettings(**values)
