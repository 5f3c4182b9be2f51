"""Removal of specks from generated labels: off by default, since it changes what the generator said.

Shapes: X Y Z volume axes.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def remove_specks(classes: np.ndarray, smallest_voxels: int) -> np.ndarray:
    """Return labels in which no structure has a detached part smaller than ``smallest_voxels``.

    The largest part of a structure always stays. What is removed takes the nearest remaining label.

    Args:
        classes: (X, Y, Z) class indices, 0 = background, which is left alone.

    >>> remove_specks(np.array([[[1, 1, 1, 0, 0, 1, 0]]]), 2).tolist()
    [[[1, 1, 1, 0, 0, 0, 0]]]
    """
    removed = np.zeros(classes.shape, bool)
    for value in np.unique(classes[classes > 0]):
        parts, _ = ndimage.label(classes == value)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        small = sizes < smallest_voxels
        small[[0, int(sizes.argmax())]] = False
        removed |= small[parts]
    if not removed.any():
        return classes
    nearest = ndimage.distance_transform_edt(removed, return_distances=False, return_indices=True)
    return classes[tuple(nearest)]
