"""Planted copies: training cases under disguises that a generator's copies wear, to test whoever looks for copies.

Takes a case and a seed; gives the same case, changed. An audit that does not find these proves nothing.

    disguise       at strength 1
    exact          nothing
    shift          6 % of each axis, there or back
    rescale        intensities times 0.7 to 1.4, plus a tenth of their range
    noise          white, a quarter of the image's standard deviation
    rotation       6 degrees about a random axis
    flip           left and right exchanged
    deformation    a smooth field, at most 4 % of an axis
    blur           a Gaussian of 2 % of each axis
    shift+noise, rotation+rescale, flip+blur, deformation+noise      one after the other

Shapes: X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.run import derive_seed

DISGUISES = (
    "exact",
    "shift",
    "rescale",
    "noise",
    "rotation",
    "flip",
    "deformation",
    "blur",
    "shift+noise",
    "rotation+rescale",
    "flip+blur",
    "deformation+noise",
)
EASY = ("exact", "shift", "rescale", "noise")
"""Disguises that any audit worth the name sees through."""

Pair = tuple[np.ndarray, np.ndarray | None]


def disguise(case: Case, kind: str, seed: int, strength: float = 1.0) -> Case:
    """Return ``case`` under a disguise, with a name of its own.

    Args:
        kind: one of ``DISGUISES``, or any of their parts joined by ``+``.
        strength: of all parts; "exact" and "flip" know no strength.

    Raises:
        InputError: an unknown disguise.
    """
    image, labels = case.image, case.labels
    for part in kind.split("+"):
        if part not in _PARTS:
            raise InputError(f"no disguise {part!r}; there are {', '.join(_PARTS)}")
        random = np.random.default_rng(derive_seed("disguise", part, seed))
        image, labels = _PARTS[part](image, labels, case.affine, random, strength)
    name = f"{case.name}-{kind.replace('+', '-')}"
    return replace(case, name=name, image=image.astype(np.float32), labels=labels, source="synthetic")


def _exact(image, labels, affine, random, strength) -> Pair:
    return image, labels


def _shift(image, labels, affine, random, strength) -> Pair:
    voxels = np.rint(random.choice([-1, 1], 3) * 0.06 * strength * np.array(image.shape))
    return _sampled(image, labels, lambda volume, order: ndimage.shift(volume, voxels, order=order, mode="nearest"))


def _rescale(image, labels, affine, random, strength) -> Pair:
    gain = np.exp(strength * random.uniform(np.log(0.7), np.log(1.4)))
    return image * gain + 0.1 * strength * random.uniform(-1, 1) * np.ptp(image), labels


def _noise(image, labels, affine, random, strength) -> Pair:
    return image + random.normal(0, 0.25 * strength * image.std(), image.shape), labels


def _rotation(image, labels, affine, random, strength) -> Pair:
    axis = random.normal(size=3)
    angle = np.deg2rad(6 * strength) * axis / np.linalg.norm(axis)
    turn = Rotation.from_rotvec(angle).as_matrix()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    matrix = turn * spacing / spacing[:, None]  # an angle is true in millimetres, not in voxels
    middle = (np.array(image.shape) - 1) / 2
    offset = middle - matrix @ middle

    def turned(volume: np.ndarray, order: int) -> np.ndarray:
        return ndimage.affine_transform(volume, matrix, offset, order=order, mode="nearest")

    return _sampled(image, labels, turned)


def _flip(image, labels, affine, random, strength) -> Pair:
    left_right = int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 0)[0])
    return np.flip(image, left_right), None if labels is None else np.flip(labels, left_right)


def _deformation(image, labels, affine, random, strength) -> Pair:
    shape = np.array(image.shape)
    places = np.indices(image.shape, np.float32)
    for axis in range(3):
        control = random.uniform(-1, 1, (4, 4, 4)) * 0.04 * strength * shape[axis]
        places[axis] += ndimage.zoom(control, shape / 4, order=1, grid_mode=True, mode="nearest")

    def bent(volume: np.ndarray, order: int) -> np.ndarray:
        return ndimage.map_coordinates(volume, places, order=order, mode="nearest")

    return _sampled(image, labels, bent)


def _blur(image, labels, affine, random, strength) -> Pair:
    return ndimage.gaussian_filter(image, 0.02 * strength * np.array(image.shape), mode="nearest"), labels


_PARTS: dict[str, Callable[..., Pair]] = {
    "exact": _exact,
    "shift": _shift,
    "rescale": _rescale,
    "noise": _noise,
    "rotation": _rotation,
    "flip": _flip,
    "deformation": _deformation,
    "blur": _blur,
}


def _sampled(image: np.ndarray, labels: np.ndarray | None, how: Callable[[np.ndarray, int], np.ndarray]) -> Pair:
    return how(image, 1), None if labels is None else how(labels, 0)
