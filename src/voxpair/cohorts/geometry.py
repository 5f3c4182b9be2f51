"""Where the voxels of a prepared volume lie, and how volumes travel between the two grids.

Takes volumes and a :class:`Geometry`; gives volumes on the grid asked for. Everything is about the volume's centre
and counts voxel faces, not voxel centres, as a volume's ends: n voxels of size s are n s wide, so index i of a new
grid with voxels ``step`` old voxels wide lies at old index ``(n - 1) / 2 + step (i - (m - 1) / 2)``. That makes the
prepared affine exact, whatever the sizes.

Anti-aliasing: where a grid is coarser than the volume by a factor f > 1, a Gaussian of sigma (f - 1) / 2 old voxels
comes first (the rule of ``skimage.transform.resize``), on images and on one-hot labels alike, so that both lose
the same detail and their borders stay together.

Shapes: X Y Z volume axes; n and m voxels on the old and the new axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from voxpair.core.errors import InputError

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Geometry:
    """All that the way back needs. A generated volume has no original: its "original" grid is the prepared one.

    Args:
        original_shape, original_affine: as in the file.
        orientation: nibabel's orientation of the original axes towards RAS: (RAS axis, +1 or -1) for each.
        resampled_shape: RAS volume after resampling, before crop and pad.
        step: size of a resampled voxel in RAS voxels of the original, per axis.
        pad_before: voxels put before index 0 of the resampled volume, per axis; negative where cut.
        grid: shape of the prepared volume.
        intensity_low, intensity_high: original units that 0 and 1 stand for.
    """

    original_shape: Shape
    original_affine: np.ndarray
    orientation: tuple[tuple[int, int], ...]
    resampled_shape: Shape
    step: Triple
    pad_before: Shape
    grid: Shape
    intensity_low: float
    intensity_high: float

    @classmethod
    def synthetic(cls, grid: Shape, spacing_mm: Triple, intensity_low: float, intensity_high: float) -> Geometry:
        """Return the geometry of a volume that was never a scan: RAS axes, centred on the world's origin.

        >>> Geometry.synthetic((4, 4, 2), (1.0, 1.0, 3.0), -1000, 2000).affine[:3, 3].tolist()
        [-1.5, -1.5, -1.5]
        """
        affine = np.diag((*map(float, spacing_mm), 1.0))
        affine[:3, 3] = [-(n - 1) * s / 2 for n, s in zip(grid, spacing_mm)]
        straight, same = ((0, 1), (1, 1), (2, 1)), (1.0, 1.0, 1.0)
        grid = whole_shape(grid)
        return cls(grid, affine, straight, grid, same, (0, 0, 0), grid, float(intensity_low), float(intensity_high))

    @property
    def ras_shape(self) -> Shape:
        """Shape of the original after its axes are put in RAS order."""
        shape = [0, 0, 0]
        for size, (axis, _) in zip(self.original_shape, self.orientation):
            shape[axis] = size
        return whole_shape(shape)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), prepared voxel index to RAS+ millimetres."""
        to_ras = self.original_affine @ nib.orientations.inv_ornt_aff(np.array(self.orientation), self.original_shape)
        resampled_to_ras = np.diag((*self.step, 1.0))
        resampled_to_ras[:3, 3] = _offset(self.ras_shape, self.resampled_shape, self.step)
        unpad = np.eye(4)
        unpad[:3, 3] = [-p for p in self.pad_before]
        return to_ras @ resampled_to_ras @ unpad

    @property
    def spacing_mm(self) -> Triple:
        """Size of a prepared voxel along X, Y, Z in millimetres."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; :meth:`from_dict` gives the same geometry to the last bit."""
        return asdict(self) | {"original_affine": self.original_affine.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Geometry:
        if set(values) != (expected := {f.name for f in fields(cls)}):
            raise InputError(f"a geometry needs the entries {sorted(expected)}, got {sorted(values)}")
        read = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        read["original_affine"] = np.array(values["original_affine"], float)
        read["orientation"] = tuple((int(axis), int(sign)) for axis, sign in values["orientation"])
        return cls(**read)


def whole_shape(shape: Iterable[int]) -> Shape:
    """Return three plain integers, which JSON can hold, for whatever NumPy gave."""
    x, y, z = (int(n) for n in shape)
    return x, y, z


def _offset(source: Shape, target: Shape, step: Triple) -> list[float]:
    """Source index under target index 0, per axis, so that both volumes have the same centre."""
    return [(n - 1) / 2 - s * (m - 1) / 2 for n, m, s in zip(source, target, step)]


def resample(volume: np.ndarray, shape: Shape, step: Triple) -> np.ndarray:
    """Resample linearly about the common centre; ``step`` is the new voxel size in old voxels.

    >>> resample(np.arange(8, dtype=np.float32).reshape(8, 1, 1), (4, 1, 1), (2.0, 1.0, 1.0)).ravel()[1:3].tolist()
    [2.5, 4.5]
    """
    if volume.shape == shape and step == (1.0, 1.0, 1.0):
        return volume
    sigma = [max(0.0, (s - 1) / 2) for s in step]
    if any(sigma):
        volume = ndimage.gaussian_filter(volume, sigma, mode="nearest")
    offset = _offset(volume.shape, shape, step)
    return ndimage.affine_transform(volume, np.array(step), offset, shape, order=1, mode="nearest")


def resample_classes(classes: np.ndarray, shape: Shape, step: Triple) -> np.ndarray:
    """Resample a map of class indices: each class softly, then the largest wins."""
    if classes.shape == shape and step == (1.0, 1.0, 1.0):
        return classes
    present = np.flatnonzero(np.bincount(classes.ravel()))
    return largest(present, lambda k: resample((classes == k).astype(np.float32), shape, step), shape)


def largest(classes: Iterable[int], soft: Callable[[int], np.ndarray], shape: Shape) -> np.ndarray:
    """Return the class (uint8) whose ``soft(class)`` volume is largest; a tie goes to the lower class.

    One class at a time, so that memory does not grow with the number of classes.
    """
    best = np.full(shape, -np.inf, np.float32)
    winner = np.zeros(shape, np.uint8)
    for k in sorted(classes):
        values = soft(k)
        better = values > best
        winner[better], best[better] = k, values[better]
    return winner


def overlap(geometry: Geometry) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return what crop and pad keep: as slices of the resampled volume, and of the grid."""
    source, target = [], []
    for n, g, before in zip(geometry.resampled_shape, geometry.grid, geometry.pad_before):
        start, stop = max(0, -before), min(n, g - before)
        source.append(slice(start, stop))
        target.append(slice(start + before, stop + before))
    return tuple(source), tuple(target)


def bring_back(volume: np.ndarray, geometry: Geometry, fill: float) -> np.ndarray:
    """Take a prepared volume to the RAS grid of the original; ``fill`` where the crop had cut."""
    source, target = overlap(geometry)
    whole = np.full(geometry.resampled_shape, fill, volume.dtype)
    whole[source] = volume[target]
    x, y, z = geometry.step
    return resample(whole, geometry.ras_shape, (1 / x, 1 / y, 1 / z))


def orient(volume: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return a volume of the original with its axes turned to RAS."""
    return nib.orientations.apply_orientation(volume, np.array(geometry.orientation))


def unorient(volume: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return a RAS volume with its axes as in the original; inverse of :func:`orient`."""
    ras = np.array([[0, 1], [1, 1], [2, 1]])
    back = nib.orientations.ornt_transform(ras, np.array(geometry.orientation))
    return np.ascontiguousarray(nib.orientations.apply_orientation(volume, back))
