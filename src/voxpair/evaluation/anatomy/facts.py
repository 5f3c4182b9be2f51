"""What a label map is like: volumes, pieces, holes, contacts, places, and voxels that a blurred border decoded wrongly.

In: a :class:`~voxpair.core.case.Case` with labels. Out: :class:`AnatomyFacts`, a few hundred numbers.

**Third class.** Where two structures A and B meet, a generator draws a blurred border, and a code between those of A
and B may decode to a third class C: the red dots of Ikuta et al. 2024 and Hu et al. 2024. Such voxels form dots and
films of one or two voxels, far from any solid part of C. So a voxel counts as third-class when it belongs to C, has no
*core* voxel of C (one whose six face neighbours are all C) within ``REACH`` voxels along each axis, and lies in a
patch of such voxels that faces at least two other classes (background is one). The edge of C where three true
structures meet lies beside C's core and does not count, down to an angle of about 60 degrees; neither does a detached
piece that is solid. Counting small detached pieces instead would miss most of it, because a film usually hangs together
with its structure somewhere. The unit is the voxel and not the millimetre, because the width of a blurred border is a
number of voxels; thick slices (an axis more than ``THICK`` times as coarse as the finest) are judged one by one. A
structure that is truly one or two voxels thick on a coarse grid does count: read the rate beside that of real cases.

    piece       voxels of one structure connected over faces, edges or corners
    stray       outside the largest piece, in pieces that do not reach the border of the image: such may meet beyond it
    hole        background that one structure encloses: no path over faces leads out of it
    surface     faces between a structure and another class; faces on the border of the image are kept apart
    order       centroids in RAS millimetres, from the affine

Shapes: X Y Z volume axes; C classes of the label table, background first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import euler_number

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable

REACH = 2
THICK = 2.0
_ALL_NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class StructureFacts:
    """One structure of one case.

    Args:
        volume_ml: 0 where it is absent.
        pieces: connected parts.
        stray_share: share of its volume in stray pieces; None where it is absent.
        holes_ml: background that it encloses.
        euler: pieces - tunnels + cavities (26-connected).
        centroid_mm: RAS; None where it is absent.
        third_class_voxels: the module says which.
    """

    volume_ml: float
    pieces: int
    stray_share: float | None
    holes_ml: float
    euler: int
    centroid_mm: tuple[float, float, float] | None
    third_class_voxels: int


ABSENT = StructureFacts(0.0, 0, None, 0.0, 0, None, 0)


@dataclass(frozen=True, eq=False)
class AnatomyFacts:
    """What is kept of one case.

    Args:
        structures: by name, in the order of the label table.
        contact_mm2: (C, C), area shared by two classes; symmetric, zero on the diagonal.
        border_mm2: (C,), area of each class on the border of the image, where its neighbour is unknown.
        boundary_voxels: voxels that face another class.
    """

    case: str
    patient: str
    label_table: LabelTable
    structures: Mapping[str, StructureFacts]
    contact_mm2: np.ndarray
    border_mm2: np.ndarray
    boundary_voxels: int

    def third_class_rate(self, name: str | None = None) -> float | None:
        """Return the third-class voxels, of one structure or all, as a share of the boundary; None without any."""
        if not self.boundary_voxels:
            return None
        counted = [self.structures[name]] if name else self.structures.values()
        return sum(found.third_class_voxels for found in counted) / self.boundary_voxels

    def present(self, name: str) -> bool:
        return self.structures[name].pieces > 0

    def is_cut(self, name: str) -> bool:
        """True where the border of the image cuts the structure."""
        return bool(self.border_mm2[1 + self.label_table.names.index(name)])

    def row(self) -> dict[str, float | int | str]:
        """Return a line of a table; what is undefined is an empty cell."""
        cells: dict[str, float | int | None] = {"third_class_rate": self.third_class_rate()}
        for name, found in self.structures.items():
            cells[f"{name}_ml"] = found.volume_ml
            cells[f"{name}_pieces"] = found.pieces
            cells[f"{name}_stray_share"] = found.stray_share
            cells[f"{name}_holes_ml"] = found.holes_ml
        return {key: "" if value is None else round(value, 6) for key, value in cells.items()}


def describe(case: Case) -> AnatomyFacts:
    """Return the facts of one annotated case.

    Raises:
        InputError: the case has no labels.
    """
    if case.labels is None:
        raise InputError(f"case {case.name} has no labels, so its anatomy cannot be judged")
    table = case.label_table
    classes = table.to_classes(case.labels)
    contact, border = _contacts(classes, case.spacing_mm, table.classes)
    boxes = ndimage.find_objects(classes, max_label=table.classes - 1)
    structures = {
        name: ABSENT if box is None else _describe_structure(classes, index, box, case)
        for index, (name, box) in enumerate(zip(table.names, boxes), 1)
    }
    return AnatomyFacts(case.name, case.patient, table, structures, contact, border, int(_boundary(classes).sum()))


def _describe_structure(classes: np.ndarray, index: int, box: tuple[slice, ...], case: Case) -> StructureFacts:
    """Return the facts of class ``index``, which lies in ``box``; only the box and one voxel around it are touched."""
    around = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
    near = classes[around]
    mask = near == index
    voxel_ml = abs(np.linalg.det(case.affine[:3, :3])) / 1000
    parts, pieces = ndimage.label(mask, _ALL_NEIGHBOURS)
    sizes = np.bincount(parts.ravel())[1:]
    middle = np.argwhere(mask).mean(axis=0) + [side.start for side in around]
    right, front, up = case.affine[:3, :3] @ middle + case.affine[:3, 3]
    return StructureFacts(
        volume_ml=float(sizes.sum() * voxel_ml),
        pieces=int(pieces),
        stray_share=_stray_voxels(parts, sizes, around, classes.shape) / int(sizes.sum()),
        holes_ml=float(_holes(mask, near == 0) * voxel_ml),
        euler=int(euler_number(mask, connectivity=3)),
        centroid_mm=(float(right), float(front), float(up)),
        third_class_voxels=_third_class(near, index, case.spacing_mm),
    )


def _stray_voxels(parts: np.ndarray, sizes: np.ndarray, box: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    """Count the voxels of ``parts`` (numbered from 1, of these ``sizes``, in ``box`` of an image) in stray pieces."""
    stray = np.ones(len(sizes) + 1, bool)
    stray[[0, 1 + int(sizes.argmax())]] = False
    for axis, (side, length) in enumerate(zip(box, shape)):
        ends = [end for end, at_border in ((0, side.start == 0), (-1, side.stop >= length)) if at_border]
        stray[np.take(parts, ends, axis)] = False
    return int(sizes[stray[1:]].sum())


def _contacts(classes: np.ndarray, spacing_mm: tuple[float, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas in mm² that classes share, (C, C), and that they have on the border of the image, (C,)."""
    contact, border = np.zeros((count, count)), np.zeros(count)
    for axis, spacing in enumerate(spacing_mm):
        face_mm2 = np.prod(spacing_mm) / spacing
        along = np.moveaxis(classes, axis, 0)
        pairs = np.bincount((along[:-1].astype(np.intp) * count + along[1:]).ravel(), minlength=count**2)
        contact += face_mm2 * (pairs.reshape(count, count) + pairs.reshape(count, count).T)
        border += face_mm2 * np.bincount(along[[0, -1]].ravel(), minlength=count)
    np.fill_diagonal(contact, 0)
    return contact, border


def _boundary(classes: np.ndarray) -> np.ndarray:
    """Return which voxels face another class."""
    found = np.zeros(classes.shape, bool)
    for axis in range(3):
        along, marks = np.moveaxis(classes, axis, 0), np.moveaxis(found, axis, 0)
        differs = along[:-1] != along[1:]
        marks[:-1] |= differs
        marks[1:] |= differs
    return found


def _holes(mask: np.ndarray, background: np.ndarray) -> int:
    """Count the background voxels from which every path over faces out of the box crosses the mask."""
    outside, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    inner = outside[1:-1, 1:-1, 1:-1]
    return int((background & (inner != outside[0, 0, 0])).sum())


def _third_class(near: np.ndarray, index: int, spacing_mm: tuple[float, ...]) -> int:
    """Count the third-class voxels of class ``index`` in its box ``near``, which has one voxel around it."""
    fine = [axis for axis, spacing in enumerate(spacing_mm) if spacing <= THICK * min(spacing_mm)]
    neighbours = _ALL_NEIGHBOURS.copy()
    for axis in set(range(3)) - set(fine):
        np.moveaxis(neighbours, axis, 0)[[0, 2]] = False
    mask = near == index
    core = ndimage.binary_erosion(mask, neighbours & ndimage.generate_binary_structure(3, 1), border_value=1)
    reach = [2 * REACH + 1 if axis in fine else 1 for axis in range(3)]
    solid = ndimage.maximum_filter(core.view(np.uint8), reach, mode="constant") > 0
    patches, count = ndimage.label(mask & ~solid, neighbours)
    if not count:
        return 0
    faces = np.zeros((count + 1, 256), bool)  # patch, class it faces
    for axis in fine:
        patch, neighbour = np.moveaxis(patches, axis, 0), np.moveaxis(near, axis, 0)
        faces[patch[:-1], neighbour[1:]] = True
        faces[patch[1:], neighbour[:-1]] = True
    faces[:, index] = False
    between = faces.sum(axis=1) >= 2
    between[0] = False
    return int(between[patches].sum())
