"""Flow between slices: known displacements, an independent implementation, and pairs that say nothing."""

import numpy as np
import pytest
import torch
from skimage.registration import optical_flow_ilk

from voxpair.generators.medgen3d.flow import confidence, optical_flow, resize_flow, warp
from voxpair.phantom.heart_cohort import PhantomSettings, heart_cases

SIDE, BORDER = 48, 8


@pytest.fixture(scope="module")
def a_slice():
    """A slice of a phantom heart: (1, 1, X, Y) in [0, 1]."""
    settings = PhantomSettings(grid=(SIDE, SIDE, 16), field_of_view_mm=(150, 150, 140))
    case = next(iter(heart_cases(settings, 1, seed=3)))
    return torch.from_numpy(np.clip((case.image[:, :, 8].astype(np.float32) + 300) / 1000, 0, 1))[None, None]


def displacement(kind, shape=(SIDE, SIDE)):
    """(1, 2, X, Y) of up to about 3 voxels."""
    x, y = torch.meshgrid(*[torch.arange(float(n)) - (n - 1) / 2 for n in shape], indexing="ij")
    ones = torch.ones_like(x)
    parts = {"shift": (2.3 * ones, -1.6 * ones), "zoom": (0.08 * x, 0.08 * y), "turn": (-0.1 * y, 0.1 * x)}
    return torch.stack(parts[kind])[None]


def inner_error(flow, truth):
    return (flow - truth).norm(dim=1)[0, BORDER:-BORDER, BORDER:-BORDER]


@pytest.mark.parametrize("kind", ["shift", "zoom", "turn"])
def test_a_known_displacement_is_found(a_slice, kind):
    truth = displacement(kind)
    moved = warp(a_slice, truth)
    error = inner_error(optical_flow(moved, a_slice), truth)
    assert error.median() < 0.15 and error.quantile(0.9) < 0.6
    assert truth.norm(dim=1).mean() > 10 * error.median()


@pytest.mark.parametrize("kind", ["shift", "zoom", "turn"])
def test_under_noise_it_is_as_good_as_scikit_image(a_slice, kind):
    truth = displacement(kind)
    random = torch.Generator().manual_seed(0)
    fixed, moving = (s + 0.02 * torch.randn(s.shape, generator=random) for s in (warp(a_slice, truth), a_slice))
    found = inner_error(optical_flow(fixed, moving), truth)
    other = optical_flow_ilk(fixed[0, 0].numpy(), moving[0, 0].numpy(), radius=5)
    theirs = inner_error(torch.from_numpy(np.stack(other))[None].float(), truth)
    assert found.quantile(0.9) < 1.0
    assert found.quantile(0.9) < theirs.quantile(0.9) + 0.25


def test_label_maps_show_what_an_even_image_hides():
    labels = torch.zeros(1, 1, 40, 40)
    labels[:, :, 12:28, 12:28] = 1
    even = torch.full((1, 1, 40, 40), 0.5)
    moved = warp(labels, displacement("shift", (40, 40)))
    blind = optical_flow(even, even)
    seeing = optical_flow(torch.cat([even, moved], 1), torch.cat([even, labels], 1))
    assert not blind.any()
    assert (warp(labels, seeing) - moved).abs().mean() < 0.3 * (labels - moved).abs().mean()


def test_identical_and_flat_slices_do_not_move(a_slice):
    assert optical_flow(a_slice, a_slice).abs().max() < 1e-4
    brighter = optical_flow(torch.ones(2, 3, 9, 17), torch.zeros(2, 3, 9, 17))
    assert brighter.shape == (2, 2, 9, 17) and not brighter.any()


def test_pairs_do_not_see_each_other(a_slice):
    pairs = torch.cat([warp(a_slice, displacement(kind)) for kind in ("shift", "turn")])
    together = optical_flow(pairs, a_slice.expand(2, -1, -1, -1))
    alone = optical_flow(pairs[1:], a_slice)
    assert torch.allclose(together[1:], alone, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 40), (3, 3)])
def test_narrow_slices_are_taken(shape):
    random = torch.Generator().manual_seed(0)
    slices = torch.rand(1, 1, *shape, generator=random)
    assert optical_flow(slices, slices.flip(3)).isfinite().all()


def test_warping_by_whole_voxels_is_a_roll(a_slice):
    flow = torch.zeros(1, 2, SIDE, SIDE)
    flow[:, 0], flow[:, 1] = 3, -2
    rolled = a_slice.roll((-3, 2), (2, 3))
    assert torch.allclose(warp(a_slice, flow)[..., :-3, 2:], rolled[..., :-3, 2:], atol=1e-5)


def test_confidence_is_kept_through_noise_and_lost_where_something_appears(a_slice):
    random = torch.Generator().manual_seed(0)
    fixed = a_slice + 0.03 * torch.randn(a_slice.shape, generator=random)
    still = torch.zeros(1, 2, SIDE, SIDE)
    assert confidence(fixed, a_slice, still).mean() > 0.99
    fixed[..., 20:30, 20:30] += 0.5
    trusted = confidence(fixed, a_slice, still)
    assert trusted[..., 22:28, 22:28].sum() == 0 and trusted[..., :8, :8].all()


def test_a_resized_flow_moves_the_same_part_of_the_picture():
    flow = displacement("zoom", (20, 30))
    half = resize_flow(flow, (10, 15))
    assert torch.allclose(half, displacement("zoom", (10, 15)), atol=1e-4)
    assert resize_flow(flow, (20, 30)) is flow
