"""Jumps from slice to slice of label volumes, and seams where the windows that drew them meet.

Takes label volumes and the plan by which windows filled them; gives shares and ratios, beside those of real volumes.

    symbol    here             meaning
    c(z)      label_changes    share of the voxels of slice z whose class slice z + 1 changes
    r(z)                       the same, mean over real volumes
    B         borders          steps from a slice to the next that another window drew
    jump                       largest c of drawn volumes, over the largest of real ones
    seam                       (sum of c / sum of r, over B) / (sum of c / sum of r, over all other steps)

Anatomy changes faster in some places than in others, and borders lie where they lie: hence r(z) of the same place. Both
ratios are 1 for volumes that change as real ones do; a seam is above 1, whatever the drawn volumes are like elsewhere.

Shapes: X Y Z volume axes, Z - 1 steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxpair.core.errors import InputError
from voxpair.generators.medgen3d.windows import Window


def label_changes(classes: np.ndarray) -> np.ndarray:
    """Return c, (Z - 1,), of class indices (X, Y, Z).

    >>> label_changes(np.array([[[0, 0, 1], [0, 2, 2]]])).tolist()
    [0.5, 0.5]
    """
    return (classes[:, :, 1:] != classes[:, :, :-1]).mean((0, 1))


def borders(plan: Sequence[Window], depth: int) -> np.ndarray:
    """Return which steps, (Z - 1,) bool, lead to a slice that another window drew last.

    >>> from voxpair.generators.medgen3d.windows import plan_windows
    >>> np.flatnonzero(borders(plan_windows(11, 3, window=4, known=1), 11)).tolist()
    [2, 6, 7]
    """
    drawn_by = np.zeros(depth, int)
    for index, (first, known) in enumerate(plan):
        drawn_by[first : first + len(known)][~np.array(known)] = index
    return np.diff(drawn_by) != 0


def jump(drawn: Sequence[np.ndarray], real: Sequence[np.ndarray]) -> float:
    """Return the largest change of drawn label volumes over the largest of real ones."""
    largest = max(float(label_changes(volume).max()) for volume in real)
    if not largest:
        raise InputError("no label changes from slice to slice in the real volumes: there is nothing to compare with")
    return max(float(label_changes(volume).max()) for volume in drawn) / largest


def seam(drawn: Sequence[np.ndarray], plans: Sequence[Sequence[Window]], real: Sequence[np.ndarray]) -> float:
    """Return how much more drawn volumes change across the borders of their windows than within them.

    Args:
        drawn: label volumes (X, Y, Z).
        plans: of each, as :func:`plan_windows` gives it.
        real: label volumes of the same depth.

    Raises:
        InputError: other depths, or there are no borders, or nothing changes on one side.
    """
    depths = {volume.shape[2] for volume in (*drawn, *real)}
    if len(depths) > 1:
        raise InputError(f"drawn and real volumes must have one depth, got {sorted(depths)}")
    expected = np.mean([label_changes(volume) for volume in real], axis=0)
    sums = np.zeros((2, 2))  # inside and border; found and expected
    for volume, plan in zip(drawn, plans, strict=True):
        found, at_border = label_changes(volume), borders(plan, volume.shape[2])
        for row, steps in enumerate((~at_border, at_border)):
            sums[row] += found[steps].sum(), expected[steps].sum()
    if not sums[:, 1].all() or not sums[0, 0]:
        raise InputError("a seam needs windows with borders, and labels that change on both sides of the comparison")
    inside, across = sums[:, 0] / sums[:, 1]
    return float(across / inside)
