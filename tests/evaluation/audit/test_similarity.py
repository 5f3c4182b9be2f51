"""Alignment finds the map that was applied, and what it compares under that map is what it says."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from voxpair.evaluation.audit.similarity import (
    align,
    coarse_labels,
    coarse_voxels,
    lay_over,
    overlap,
    pattern,
    sketch,
)

GRID = (32, 24, 28)
STILL = torch.eye(3, 4)[None]


def scan(seed, shape=GRID):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5).astype(np.float32)


def ball(centre, radius=6.0, shape=GRID):
    places = np.indices(shape)
    return (sum((p - c) ** 2 for p, c in zip(places, centre)) <= radius**2).astype(np.uint8)


def test_a_flat_image_has_a_pattern_of_zeros_and_no_nan():
    assert not pattern(np.full(GRID, 3.0)).any()
    assert torch.isfinite(sketch(np.full(GRID, 3.0), None, 1).spectrum).all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shift", [(0, 0, 0), (4, -2, 2), (-6, 4, 0)])
def test_the_coarse_step_finds_shift_and_mirror_among_strangers(shift, mirrored):
    others = np.stack([np.pad(scan(seed), 8, mode="wrap") for seed in range(4)])
    window = tuple(slice(8 + s, 8 + s + n) for s, n in zip(shift, GRID))
    query = others[2][window]
    if mirrored:
        query = query[::-1]
    inner = tuple(slice(8, 8 + n) for n in GRID)
    spectra = torch.stack([sketch(other[inner], None, 1).spectrum for other in others])
    scores, maps = coarse_voxels(sketch(query, None, 1), spectra)
    assert int(scores.argmax()) == 2 and scores[2] > 0.6 and scores[[0, 1, 3]].max() < 0.5
    assert float(maps[2, 2, 2]) == (-1.0 if mirrored else 1.0)
    # torch counts axes from the last; the shift is in half widths
    assert maps[2, :, 3].flip(0).tolist() == pytest.approx([2 * s / n for s, n in zip(shift, GRID)], abs=1e-6)


def test_alignment_undoes_an_affine_change():
    image = torch.from_numpy(scan(0))
    moved = torch.tensor([[[1.06, 0.08, 0.0, 0.05], [-0.08, 0.95, 0.04, -0.06], [0.02, -0.04, 1.03, 0.08]]])
    query = lay_over(image[None], moved, GRID)[0].numpy()
    there = pattern(image.numpy())
    before, _ = align(pattern(query), there[None], STILL)
    scores, maps = align(pattern(query), torch.stack([there, pattern(scan(1))]), STILL.repeat(2, 1, 1))
    assert scores[0] > 0.97 and scores[1] < 0.5
    assert torch.allclose(maps[0], moved[0], atol=0.03)
    assert before == scores[:1]  # a candidate's score does not depend on the other candidates


def test_alignment_is_never_worse_than_its_start_and_exact_for_the_same_scan():
    query, others = pattern(scan(0)), torch.stack([pattern(scan(seed)) for seed in range(5)])
    scores, maps = align(query, others, STILL.repeat(5, 1, 1))
    plain = torch.stack([(query * other).mean() for other in others])
    assert scores[0] == pytest.approx(1.0, abs=1e-3) and torch.allclose(maps[0], STILL[0], atol=1e-2)
    assert (scores >= plain - 0.02).all() and (scores <= 1 + 1e-5).all()


def test_scans_that_share_less_than_half_do_not_count():
    away = STILL.clone()
    away[0, 2, 3] = 1.8
    score, _ = align(pattern(scan(0)), pattern(scan(0))[None], away)
    assert score == -1


def test_overlap_is_the_mean_dice_of_structures_that_either_has():
    here, there = ball((12, 12, 14)), np.stack([ball((12, 12, 14)), ball((16, 12, 14)), np.zeros(GRID)])
    here[20:24, 2:6, 2:6] = 2
    shared, size = (here == 1) & (there[1] == 1), (here == 1).sum()
    found = overlap(here, there, STILL.repeat(3, 1, 1), classes=5)
    assert found == pytest.approx([1 / 2, shared.sum() / size / 2, 0.0])
    assert overlap(np.zeros(GRID), np.zeros((1, *GRID)), STILL, classes=3) == [0.0]


def test_labels_are_found_centre_on_centre_and_mirrored():
    shape = ball((10, 12, 14)) | ball((14, 9, 14), 4)
    moved = np.roll(shape, (4, 2, -3), (0, 1, 2))
    others = [sketch(scan(i), labels, 2) for i, labels in enumerate((ball((16, 12, 14)), shape, None))]
    for query in (moved, moved[::-1]):
        scores, maps = coarse_labels(sketch(scan(9), query, 2), others)
        assert int(scores.argmax()) == 1 and scores[1] > 0.85 and scores[2] == -1
        assert overlap(query, shape[None], maps[1:2], classes=2)[0] > 0.85


def test_a_map_holds_on_a_finer_grid():
    fine = ndimage.zoom(scan(0), 2, order=1, grid_mode=True, mode="nearest")
    moved = STILL.clone()
    moved[0, :, 3] = torch.tensor([0.1, -0.05, 0.05])
    coarse = lay_over(torch.from_numpy(scan(0))[None], moved, GRID)
    thinned = torch.nn.functional.avg_pool3d(lay_over(torch.from_numpy(fine)[None], moved, fine.shape), 2)
    inner = (slice(None), *[slice(3, -3)] * 3)
    assert np.corrcoef(coarse[inner].ravel(), thinned[inner].ravel())[0, 1] > 0.99
