"""Where does an image change along the surface of a label, and how sharply? Used by ``texture`` and ``alignment``.

Takes an image and the mask of one structure; gives the edge that was found at each of up to ``PATCHES`` places of the
surface. A surface point is the middle of a face between a voxel of the mask and one outside it; its normal is the
gradient of the mask, smoothed by one voxel. The image is read along the normals (cubic splines) and averaged over the
``PATCH`` points that are nearest in place and direction, which leaves a quarter of white noise and all of an edge that
runs along the surface. A blurred step is fitted to each mean profile:

    p(t) = a + c Phi((t - o) / s)

    symbol   meaning
    t        distance along the normal, outwards, -3 to 3 voxels
    o        offset: where the step lies, 0 on the label's surface, -2 to 2 voxels
    s        SD of the blur, 0.2 to 3 voxels; from 10 % to 90 % of the step it is 2.563 s
    a, c     level inside and contrast, by linear least squares

(o, s) is the pair on a grid (an eighth of a voxel, 8 %) that explains most of the profile's variance. An edge is
*found* where that share is at least ``EXPLAINED`` and the contrast between 1 to 3 voxels outside and inside, averaged
over the patch, exceeds its SD within the patch. Two tissues that look alike have no edge, and nothing is said of its
place or width. In white noise 1 % of the places pass, in noise that is smooth over a patch a third.

A voxel along a normal n is 1 / ||n / spacing|| mm long: one step of the index. Profiles that leave the image are left
out, so a structure has no edge where the image cuts it.

Shapes: X Y Z volume axes, P places, T samples of a profile, G steps of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from scipy.special import ndtr

from voxpair.core.case import Case

PATCHES, PATCH = 500, 16
EXPLAINED = 0.8
WIDTH_PER_SD = 2 * 1.2815515655446004
"""From 10 % to 90 % of a Gaussian step, in standard deviations."""
BESIDE = 2.0
"""Voxels from the label's surface to the shifted surfaces that its gradient is compared with."""

_PER_VOXEL = 4
_REACH = 3
_T = np.arange(-_REACH * _PER_VOXEL, _REACH * _PER_VOXEL + 1) / _PER_VOXEL
_OFFSETS = np.arange(-16, 17) / 8
_SDS = np.geomspace(0.2, 3.0, 36)
_TURN = 4.0  # voxels that a turn of the normal by a radian counts for when a patch is gathered
_MARGIN = _REACH + 5  # around the bounding box; beyond it a spline has forgotten where the image was cut


@dataclass(frozen=True)
class Edges:
    """The edges of an image at P places of a label's surface; P may be 0.

    Args:
        normals: (P, 3) outward unit normals along the array axes, in millimetres.
        voxel_mm: (P,) length of a voxel along the normal.
        found: (P,) bool, whether there is a step; offset and width mean something only where it is True.
        offset_mm: (P,) signed distance of the step from the label's surface, positive outside the structure.
        width_mm: (P,) 10-90 % width of the step.
        slope_on, slope_beside: (P,) absolute change per mm along the normal, on the label's surface and on the mean of
            the two surfaces ``BESIDE`` voxels inside and outside.
    """

    normals: np.ndarray
    voxel_mm: np.ndarray
    found: np.ndarray
    offset_mm: np.ndarray
    width_mm: np.ndarray
    slope_on: np.ndarray
    slope_beside: np.ndarray


def find_edges(image: np.ndarray, mask: np.ndarray, spacing_mm: Sequence[float]) -> Edges:
    """Return the edges of ``image`` along the surface of ``mask``, both (X, Y, Z); the mask must not be empty."""
    spacing = np.asarray(spacing_mm, float)
    box = bounding_box(mask, _MARGIN)
    image, mask = np.asarray(image[box], np.float32), np.asarray(mask[box], bool)
    points, normals = _surface(mask, spacing)
    voxel_mm = 1 / np.linalg.norm(normals / spacing, axis=1)
    direction = normals / spacing * voxel_mm[:, None]  # one voxel along the normal, in voxel indices
    ends = points[:, None] + direction[:, None] * np.array([[-_REACH], [_REACH]])
    inside = ((ends >= 0) & (ends <= np.array(image.shape) - 1)).all(axis=(1, 2))
    points, normals, voxel_mm, direction = points[inside], normals[inside], voxel_mm[inside], direction[inside]
    if len(points) < PATCH:
        return Edges(np.empty((0, 3)), np.empty(0), np.empty(0, bool), *np.empty((4, 0)))

    centres = np.unique(np.linspace(0, len(points) - 1, PATCHES).astype(int))
    places = np.hstack([points * spacing / spacing.min(), _TURN * normals])
    members = KDTree(places).query(places[centres], PATCH)[1]
    patches = _read(image, points, direction, members)
    contrast = patches[..., _T >= 1].mean(axis=-1) - patches[..., _T <= -1].mean(axis=-1)
    profiles, voxel_mm = patches.mean(axis=1), voxel_mm[centres]
    explained, offset, sd = _fit(profiles)
    return Edges(
        normals=normals[centres],
        voxel_mm=voxel_mm,
        found=(explained >= EXPLAINED) & (np.abs(contrast.mean(axis=1)) > contrast.std(axis=1)),
        offset_mm=offset * voxel_mm,
        width_mm=WIDTH_PER_SD * sd * voxel_mm,
        slope_on=_slope(profiles, 0) / voxel_mm,
        slope_beside=(_slope(profiles, -BESIDE) + _slope(profiles, BESIDE)) / (2 * voxel_mm),
    )


def edges_of(case: Case) -> dict[str, Edges]:
    """Return the edges along the surface of every structure that a labelled case holds."""
    masks = {structure.name: case.labels == structure.value for structure in case.label_table.structures}
    return {name: find_edges(case.image, mask, case.spacing_mm) for name, mask in masks.items() if mask.any()}


def bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Return the box of a mask that is not empty, wider by ``margin`` voxels where the image allows it."""
    (box,) = ndimage.find_objects(np.asarray(mask, bool).view(np.uint8))
    return tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)


def thick_axes(spacing_mm: Sequence[float]) -> np.ndarray:
    """Return (3,) bool: axes along which voxels are more than twice as long as along the finest.

    >>> thick_axes((1.4, 1.4, 10.0)).tolist()
    [False, False, True]
    """
    spacing = np.asarray(spacing_mm, float)
    return spacing > 2 * spacing.min()


def _surface(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points (P, 3) in voxel indices and outward unit normals (P, 3) in mm."""
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), 1.0, mode="nearest")
    slopes = [
        np.gradient(smooth, spacing[axis], axis=axis) if mask.shape[axis] > 1 else np.zeros_like(smooth)
        for axis in range(3)
    ]
    points, normals = [], []
    for axis in range(3):
        lower = np.argwhere(np.diff(mask.view(np.int8), axis=axis))
        upper = lower + np.eye(3, dtype=int)[axis]
        points.append((lower + upper) / 2)
        normals.append(-np.stack([slope[tuple(lower.T)] + slope[tuple(upper.T)] for slope in slopes], axis=1))
    points, normals = np.concatenate(points), np.concatenate(normals)
    lengths = np.linalg.norm(normals, axis=1)
    pointed = lengths > 1e-6  # a sheet one voxel thick may have no side that is outside
    order = np.lexsort(points[pointed].T)
    return points[pointed][order], (normals[pointed] / lengths[pointed, None])[order]


def _read(image: np.ndarray, points: np.ndarray, direction: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the profiles (P, PATCH, T) at ``members`` (P, PATCH) of the points; each point is read once."""
    used, rows = np.unique(members, return_inverse=True)
    where = points[used, None] + direction[used, None] * _T[:, None]
    spline = ndimage.spline_filter(image, order=3, output=np.float32)
    profiles = ndimage.map_coordinates(spline, np.moveaxis(where, -1, 0), order=3, prefilter=False)
    return profiles[rows.reshape(members.shape)]


def _fit(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for profiles (P, T), the share of the variance explained, the offset and the SD of the best step."""
    offsets, sds = (grid.ravel() for grid in np.meshgrid(_OFFSETS, _SDS, indexing="ij"))
    steps = _unit(ndtr((_T - offsets[:, None]) / sds[:, None])).astype(np.float32)  # (G, T)
    explained = (_unit(profiles) @ steps.T) ** 2
    best = explained.argmax(axis=1)
    return explained[np.arange(len(profiles)), best], offsets[best], sds[best]


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of mean 0 and length 1; a constant row becomes zeros."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    constant = length <= 1e-6 * np.abs(rows).max(axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=~constant)


def _slope(profiles: np.ndarray, at: float) -> np.ndarray:
    """Return the absolute change of (P, T) per voxel around ``at``, over one voxel."""
    middle, half = round((at + _REACH) * _PER_VOXEL), _PER_VOXEL // 2
    return np.abs(profiles[:, middle + half] - profiles[:, middle - half])
