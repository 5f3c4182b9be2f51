"""Jumps and seams of label volumes: closed forms, and networks that know a volume or forget what went before."""

import numpy as np
import pytest
from test_mask_sequence import Oracle, settings

from voxpair.core.errors import InputError
from voxpair.generators.medgen3d.mask_sequence import MaskSampling
from voxpair.generators.medgen3d.seams import borders, jump, label_changes, seam
from voxpair.generators.medgen3d.windows import plan_windows


def bar(length, depth=13):
    """A bar that grows by one voxel per slice up to ``length``: it changes there alone, 1/16 of a slice at a time."""
    classes = np.zeros((4, 4, depth), np.uint8)
    for z in range(depth):
        classes.reshape(16, depth)[: min(z, length), z] = 1
    return classes


def test_changes_are_counted_per_step():
    assert label_changes(bar(5)).tolist() == [1 / 16] * 5 + [0] * 7
    assert jump([bar(5)], [bar(9)]) == 1
    torn = bar(5)
    torn[:, :, 8:] = 1  # eleven voxels of sixteen at once
    assert jump([torn, bar(5)], [bar(5)]) == 11


@pytest.mark.parametrize(("depth", "known"), [(6, 2), (7, 1), (13, 2), (23, 5)])
def test_borders_lie_between_a_window_and_what_extends_it(depth, known):
    """Forward, a window's new slices begin behind the known ones; backward, they end before them; and nowhere else."""
    for start in range(depth - 6 + 1):
        plan = plan_windows(depth, start, 6, known)
        expected = {z + known - 1 if given[0] else z + 6 - known - 1 for z, given in plan[1:]}
        assert set(np.flatnonzero(borders(plan, depth))) == expected


def test_volumes_that_change_as_real_ones_do_have_no_seam_wherever_their_borders_lie():
    """Also where change is unevenly spread, and in drawn volumes that change less throughout."""
    real = [bar(9), bar(9)]
    drawn = [bar(9) for _ in range(8)]
    plans = [plan_windows(13, start, 6, 2) for start in range(8)]
    assert seam(drawn, plans, real) == pytest.approx(1)
    half = [np.concatenate([volume, np.zeros_like(volume)]) for volume in drawn]
    assert seam(half, plans, real) == pytest.approx(1)


class Forgetful(Oracle):
    """Gives every window of another volume, as if there were no known slices."""

    def forward(self, codes, network_time, known, position):
        turned = round(float(position[0, 0]) * self.truth.shape[2])
        kept, self.truth = self.truth, np.roll(self.truth, turned, axis=1)
        try:
            return super().forward(codes, network_time, known, position)
        finally:
            self.truth = kept


@pytest.mark.parametrize(("kind", "low", "high"), [(Oracle, 1, 1), (Forgetful, 2, np.inf)])
def test_a_network_that_forgets_what_went_before_leaves_seams_and_one_that_does_not_leaves_none(kind, low, high):
    truth = np.zeros((8, 8, 23), np.uint8)
    for z in range(23):
        truth[: 1 + z % 3, :4, z] = 1
    model = kind(settings(), truth)
    sampling = MaskSampling(steps=2, first_window="random")
    drawn = [model.sample(truth.shape, seed, sampling) for seed in range(4)]
    plans = [model.windows(23, seed, sampling) for seed in range(4)]
    assert low - 1e-9 <= seam(drawn, plans, [truth]) <= high + 1e-9


def test_what_cannot_be_compared_is_refused_with_the_reason():
    plan = plan_windows(13, 2, 6, 2)
    still = np.zeros((4, 4, 13), np.uint8)
    for arguments, text in (
        (([bar(5)], [plan], [bar(5, depth=12)]), r"one depth, got \[12, 13\]"),
        (([still], [plan], [bar(9)]), "labels that change on both sides"),
        (([bar(5, depth=6)], [plan_windows(6, 0, 6, 2)], [bar(5, depth=6)]), "windows with borders"),
    ):
        with pytest.raises(InputError, match=text):
            seam(*arguments)
    with pytest.raises(InputError, match="no label changes"):
        jump([bar(5)], [still])


def test_the_windows_named_for_a_seed_are_those_that_are_drawn():
    model = Oracle(settings(), bar(9).repeat(2, 0).repeat(2, 1))
    for sampling in (MaskSampling(steps=1), MaskSampling(steps=1, first_window="random")):
        model.seen.clear()
        model.sample(model.truth.shape, 5, sampling)
        drawn = [(z, known[0].bool().tolist()) for z, _, known, _ in model.seen]
        assert drawn == model.windows(13, 5, sampling)
    assert len({model.windows(13, seed, sampling)[0][0] for seed in range(20)}) > 3
