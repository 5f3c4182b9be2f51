"""Implicit surfaces on a voxel grid: signed distances, smooth unions, a smooth random deformation.

In: shapes in millimetres. Out: fields of signed distance in millimetres, negative inside, one
value per voxel. Distances are exact for tubes of constant radius and first-order for ellipsoids,
which is all that partial volume and wall offsets of a few millimetres need.

Source: smooth union after Quilez, "Smooth minimum" (polynomial form); ellipsoid bound, idem.

    symbol   here            meaning
    x        points          reference coordinates of each voxel, (3, X, Y, Z) mm
    u        displacement    sum of Gaussian bumps added to x
    k        blend_mm        how far a smooth union rounds the seam

Shapes: X Y Z grid axes, increasing to the patient's right, front and head (RAS+).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import map_coordinates

FAR_MM = 200.0
"""Value of a field where nothing is near; only the neighbourhood of zero is ever used."""

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid: ``centre`` and ``radii`` (mm); rows of ``axes`` are its unit axes in reference coordinates."""

    centre: Sequence[float]
    radii: Sequence[float]
    axes: np.ndarray = field(default_factory=lambda: np.eye(3))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest corner of a box that holds the shape."""
        reach = np.linalg.norm(np.asarray(self.axes) * np.asarray(self.radii)[:, None], axis=0)
        return np.asarray(self.centre) - reach, np.asarray(self.centre) + reach

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return signed distances (X, Y, Z) for ``points`` (3, X, Y, Z).

        >>> ball = Ellipsoid((0, 0, 0), (2, 2, 2))
        >>> ball.distance(np.array([5.0, 0, 0]).reshape(3, 1, 1, 1)).item()
        3.0
        """
        shape = points.shape[1:]
        centred = points.reshape(3, -1) - np.asarray(self.centre, np.float32)[:, None]
        radii = np.asarray(self.radii, np.float32)[:, None]
        scaled = np.asarray(self.axes, np.float32) @ centred / radii
        unit = np.maximum(np.sqrt((scaled**2).sum(0)), 1e-6)
        slope = np.maximum(np.sqrt(((scaled / radii) ** 2).sum(0)), 1e-12)
        deepest = -np.float32(min(self.radii))  # the first-order formula has a pole at the centre
        return np.maximum(unit * (unit - 1) / slope, deepest).reshape(shape)


@dataclass(frozen=True)
class Tube:
    """A tube through ``path`` (N, 3) mm whose radius runs linearly between ``radii`` (N,) mm; round ends."""

    path: Sequence[Sequence[float]]
    radii: Sequence[float]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest corner of a box that holds the shape."""
        path, radii = np.asarray(self.path, float), np.asarray(self.radii, float)[:, None]
        return (path - radii).min(0), (path + radii).max(0)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return signed distances (X, Y, Z) for ``points`` (3, X, Y, Z)."""
        path, radii = np.asarray(self.path, np.float32), np.asarray(self.radii, np.float32)
        best = None
        for start, end, thick, thin in zip(path[:-1], path[1:], radii[:-1], radii[1:]):
            along = end - start
            offset = [points[i] - start[i] for i in range(3)]
            share = sum(offset[i] * along[i] for i in range(3)) / max(float(along @ along), 1e-6)
            share = np.clip(share, 0, 1)
            square = sum((offset[i] - share * along[i]) ** 2 for i in range(3))
            found = np.sqrt(square) - (thick + share * (thin - thick))
            best = found if best is None else np.minimum(best, found)
        return best


Shape = Ellipsoid | Tube


def smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the union of two fields with the seam filled over ``blend_mm``.

    >>> smooth_union(np.array(1.0), np.array(1.0), 4.0).item()
    0.0
    """
    if blend_mm <= 0:
        return np.minimum(a, b)
    near = np.maximum(blend_mm - np.abs(a - b), 0)
    return np.minimum(a, b) - near * near / (4 * blend_mm)


def smooth_cut(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the intersection of two fields with the edge rounded over ``blend_mm``."""
    return -smooth_union(-a, -b, blend_mm)


@dataclass(frozen=True)
class Pose:
    """Where reference coordinates lie in the body: body = scale * rotation @ reference (mm)."""

    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    scale: float = 1.0


@dataclass(frozen=True)
class Warp:
    """A smooth deformation, the sum of Gaussian bumps: ``centres`` (K, 3) mm, ``vectors`` (K, 3) mm, ``width_mm``.

    It can be undone (its Jacobian stays positive) while the vectors are small against the width.
    """

    centres: np.ndarray
    vectors: np.ndarray
    width_mm: float

    @classmethod
    def random(cls, rng: np.random.Generator, size_mm: float, width_mm: float) -> Warp:
        """Draw bumps all over a heart-sized cube so that each component has SD of about ``size_mm``."""
        side = 220.0
        count = max(8, round((side / width_mm / 1.4) ** 3))
        overlap = count * (np.sqrt(np.pi) * width_mm / side) ** 3  # mean of the sum of squared bumps
        centres = rng.uniform(-side / 2, side / 2, (count, 3))
        return cls(centres, rng.normal(0, size_mm / np.sqrt(overlap), (count, 3)), width_mm)

    def displacement(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Return u of shape (3, X, Y, Z) on a grid; Gaussians are separable, hence one matrix product per axis."""
        bumps = [
            np.exp(-((x[None] - self.centres[:, i, None]) ** 2) / (2 * self.width_mm**2)) for i, x in enumerate(axes)
        ]
        plane = (bumps[0][:, :, None] * bumps[1][:, None, :]).reshape(len(self.centres), -1).astype(np.float32)
        parts = [plane.T @ (bumps[2] * self.vectors[:, i, None]).astype(np.float32) for i in range(3)]
        return np.stack(parts).reshape(3, *(len(x) for x in axes))


class VoxelGrid:
    """Voxel centres in body and reference coordinates, and shapes drawn there within their boxes only.

    Args:
        axes: three increasing arrays of voxel centres in body millimetres (RAS+).
        warp: deformation of the reference coordinates.
        pose: where the reference lies in the body.
    """

    def __init__(self, axes: Sequence[np.ndarray], warp: Warp | None = None, pose: Pose | None = None):
        self.axes = [np.asarray(x, np.float64) for x in axes]
        self.pose = pose or Pose()
        body = np.stack(np.meshgrid(*self.axes, indexing="ij")).astype(np.float32)
        self.slack_mm = 0.0
        if warp is not None:
            shift = warp.displacement(self.axes)
            self.slack_mm = float(np.abs(shift).max())
            body = body + shift
        self.body = body
        inverse = (self.pose.rotation.T / self.pose.scale).astype(np.float32)
        self.points = np.tensordot(inverse, body, axes=1)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.body.shape[1:]

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size along X, Y, Z."""
        return np.array([x[1] - x[0] for x in self.axes])

    def with_pose(self, pose: Pose) -> VoxelGrid:
        """Return the same deformed voxels seen from another reference."""
        other = copy(self)
        other.pose = pose
        other.points = np.tensordot((pose.rotation.T / pose.scale).astype(np.float32), self.body, axes=1)
        return other

    def moved(self, shift: np.ndarray) -> VoxelGrid:
        """Return the same voxels with reference coordinates displaced by ``shift`` (3, X, Y, Z) mm."""
        other = copy(self)
        other.points = self.points + shift
        other.slack_mm = self.slack_mm + self.pose.scale * float(np.abs(shift).max())
        return other

    def locate(self, places: np.ndarray) -> np.ndarray:
        """Return fractional voxel indices (3, N) of ``places`` (N, 3) in reference mm: the deformation, undone."""
        turn = self.pose.scale * self.pose.rotation
        origin = np.array([axis[0] for axis in self.axes])
        body = places @ turn.T
        for _ in range(4):  # the deformation is a contraction, so that this converges
            at = ((body - origin) / self.spacing_mm).T
            seen = np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in self.points], axis=1)
            body = body + (places - seen) @ turn.T
        return ((body - origin) / self.spacing_mm).T

    def box(self, shape: Shape, margin_mm: float) -> Slices | None:
        """Return the index box that holds ``shape`` and its margin, or None if it misses the grid."""
        low, high = shape.bounds()
        turn = self.pose.scale * self.pose.rotation
        middle, half = turn @ (low + high) / 2, np.abs(turn) @ (high - low) / 2
        margin = margin_mm * self.pose.scale + self.slack_mm + self.spacing_mm.max()
        slices = []
        for axis, values in enumerate(self.axes):
            first = int(np.searchsorted(values, middle[axis] - half[axis] - margin))
            last = int(np.searchsorted(values, middle[axis] + half[axis] + margin))
            if first >= last:
                return None
            slices.append(slice(first, last))
        return slices[0], slices[1], slices[2]

    def draw(self, *shapes: Shape, blend_mm: float = 0.0, margin_mm: float = 14.0) -> np.ndarray:
        """Return the field (X, Y, Z) of the smooth union of ``shapes``, in body millimetres.

        Farther than ``margin_mm`` from a shape's box the field says no more than "far".
        """
        field_ = np.full(self.shape, FAR_MM, np.float32)
        for shape in shapes:
            box = self.box(shape, margin_mm + blend_mm)
            if box is not None:
                found = self.pose.scale * shape.distance(self.points[(slice(None), *box)])
                field_[box] = smooth_union(field_[box], found, blend_mm)
        return field_

    def beyond(self, point: Sequence[float], direction: Sequence[float]) -> np.ndarray:
        """Return the signed distance to the plane through ``point``, positive on the side of ``direction``."""
        unit = np.asarray(direction, float) / np.linalg.norm(direction)
        offset = float(unit @ np.asarray(point, float))
        return self.pose.scale * (np.tensordot(unit.astype(np.float32), self.points, axes=1) - np.float32(offset))
