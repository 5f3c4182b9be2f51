"""Does a predicted mask agree with the reference mask? Per structure and case.

Takes two label maps on one grid; gives rows, of which ``masks.csv`` has a line each. Eleven public tools disagree on
surface distances by more than 100 mm (Podobnik & Vrtovec 2024, arXiv 2410.02630), so the definitions are spelled out
here; they are MONAI's, and the tests hold us to it.

    surface     voxels of the mask with a face neighbour outside it, or at the border of the image; their centres
    distance    Euclidean, in mm, from each surface voxel of one mask to the nearest of the other
    dice        2 |P and R| / (|P| + |R|)
    hd95_mm     95th percentile of the distances in each direction (linear interpolation), the larger of the two
    assd_mm     mean over the distances of both directions pooled
    nsd         share of the surface voxels of both masks that lie within ``tolerance_mm`` of the other surface
    volume_error_ml   predicted minus reference volume

When a structure is absent (R reference, P prediction; D the diagonal of the image in mm):

    status       R    P     dice  nsd   distances  volume error  meaning
    ok           yes  yes   > =0  > =0  defined    P - R
    pred_empty   yes  no    0     0     D          -R            missed, or the case has no prediction at all
    ref_empty    no   yes   0     0     D          P             invented
    both_empty   no   no    none  none  none       0             rightly absent: counted, in no mean

No true distance exceeds D (the BraTS challenges do the same), so a structure that was missed never improves a mean;
``undefined`` in ``masks.json`` says how often D stands for a distance.

Shapes: X Y Z volume axes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from voxpair.core.case import Case, LabelMap
from voxpair.core.errors import InputError
from voxpair.core.run import atomic_path

Labelled = Case | LabelMap
Status = Literal["ok", "ref_empty", "pred_empty", "both_empty"]
METRICS = ("dice", "hd95_mm", "assd_mm", "nsd", "volume_error_ml")
COLUMNS = ("case", "patient", "structure", *METRICS, "status")
_SLACK_MM = 1e-6  # three voxels of 0.1 mm are 0.30000000000000004 mm apart, and within a tolerance of 0.3 mm
_SAME_GRID = 0.1  # voxels; headers are often rounded, a shift that moves a surface is larger


@dataclass(frozen=True)
class Agreement:
    """Agreement of one predicted with one reference mask; the module says what each number means."""

    dice: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    volume_error_ml: float
    status: Status


@dataclass(frozen=True)
class Row:
    """One line of ``masks.csv``."""

    case: str
    patient: str
    structure: str
    agreement: Agreement


def agreement(
    predicted: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    worst_mm: float | None = None,
) -> Agreement:
    """Compare two masks of one structure.

    Args:
        predicted, reference: same shape (X, Y, Z), bool or 0/1.
        spacing_mm: voxel size along X, Y, Z.
        tolerance_mm: deviation of the surface that ``nsd`` accepts, 0 or more.
        worst_mm: stands for the distances where one mask is empty; None leaves them undefined.

    Raises:
        InputError: the shapes differ or are not 3D, the spacing is not positive or the tolerance is negative.

    >>> mask = np.zeros((4, 4, 4), bool); mask[1, 1, 1] = True
    >>> moved = np.roll(mask, 1, axis=2)
    >>> agreement(moved, mask, spacing_mm=(1, 1, 2), tolerance_mm=1)
    Agreement(dice=0.0, hd95_mm=2.0, assd_mm=2.0, nsd=0.0, volume_error_ml=0.0, status='ok')
    """
    predicted, reference = np.asarray(predicted, bool), np.asarray(reference, bool)
    spacing = np.asarray(spacing_mm, float)
    if predicted.shape != reference.shape or predicted.ndim != 3:
        raise InputError(f"masks must be 3D and alike, got shapes {predicted.shape} and {reference.shape}")
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(f"spacing_mm must be three positive numbers, got {spacing_mm}")
    if not 0 <= tolerance_mm < math.inf:
        raise InputError(f"tolerance_mm must be a number of millimetres, 0 or more, got {tolerance_mm}")

    predicted_size, reference_size = int(predicted.sum()), int(reference.sum())
    volume_error_ml = (predicted_size - reference_size) * float(spacing.prod()) / 1000
    if not predicted_size and not reference_size:
        return Agreement(None, None, None, None, 0.0, "both_empty")
    if not predicted_size or not reference_size:
        status = "ref_empty" if predicted_size else "pred_empty"
        return Agreement(0.0, worst_mm, worst_mm, 0.0, volume_error_ml, status)

    dice = 2 * int((predicted & reference).sum()) / (predicted_size + reference_size)
    predicted_mm, reference_mm = _surface_mm(predicted, spacing), _surface_mm(reference, spacing)
    there, _ = KDTree(reference_mm).query(predicted_mm)
    back, _ = KDTree(predicted_mm).query(reference_mm)
    both = np.concatenate([there, back])
    return Agreement(
        dice=dice,
        hd95_mm=float(max(np.quantile(there, 0.95), np.quantile(back, 0.95))),
        assd_mm=float(both.mean()),
        nsd=float((both <= tolerance_mm + _SLACK_MM).mean()),
        volume_error_ml=volume_error_ml,
        status="ok",
    )


def _surface_mm(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the centres of the surface voxels in mm, shape (voxels, 3); only the mask's bounding box is touched."""
    (box,) = ndimage.find_objects(mask.view(np.uint8))
    cropped = mask[box]
    surface = cropped & ~ndimage.binary_erosion(cropped)
    return (np.argwhere(surface) + [side.start for side in box]) * spacing


def compare_case(predicted: Labelled | None, reference: Labelled, tolerance_mm: float) -> list[Row]:
    """Return a row per structure of the label table; ``predicted`` None stands for an empty prediction.

    Only the box that holds a structure in either map is looked at: outside of it there is nothing to compare.

    Raises:
        InputError: the two lie on different grids.
    """
    if predicted is not None:
        _check_same_grid(predicted, reference)
    spacing = reference.spacing_mm
    diagonal_mm = float(np.linalg.norm(np.multiply(reference.labels.shape, spacing)))
    maps = [reference.labels, predicted.labels if predicted is not None else np.zeros_like(reference.labels)]
    boxes = [ndimage.find_objects(labels, max_label=255) for labels in maps]
    rows = []
    for structure in reference.label_table.structures:
        box = _hull([found[structure.value - 1] for found in boxes])
        truth, guess = (labels[box] == structure.value for labels in maps)
        found = agreement(guess, truth, spacing, tolerance_mm, worst_mm=diagonal_mm)
        rows.append(Row(reference.name, reference.patient, structure.name, found))
    return rows


def _hull(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    """Return the smallest box around ``boxes``; one voxel where there is none."""
    there = [box for box in boxes if box is not None]
    if not there:
        return (slice(0, 1),) * 3
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*there))


def _check_same_grid(predicted: Labelled, reference: Labelled) -> None:
    shape = reference.labels.shape
    if predicted.labels is None or predicted.labels.shape != shape:
        got = "no labels" if predicted.labels is None else f"shape {predicted.labels.shape}"
        raise InputError(
            f"case {reference.name}: the prediction has {got}, the reference has shape {shape}; "
            "predict on the grid of the reference, or resample the prediction to it"
        )
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))], float)
    moved_mm = np.linalg.norm((corners @ (predicted.affine - reference.affine).T)[:, :3], axis=1).max()
    if moved_mm > _SAME_GRID * min(reference.spacing_mm):
        raise InputError(
            f"case {reference.name}: prediction and reference lie {moved_mm:.2f} mm apart in space (their affines "
            "differ); predict on the grid of the reference, or resample the prediction to it"
        )


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write ``masks.csv``; what is not defined is an empty cell."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in rows:
            numbers = [getattr(row.agreement, metric) for metric in METRICS]
            cells = ["" if number is None else repr(number) for number in numbers]
            writer.writerow([row.case, row.patient, row.structure, *cells, row.agreement.status])


def read_rows(path: Path) -> list[Row]:
    """Read a ``masks.csv``.

    Raises:
        InputError: there is no such file, or it is not what :func:`write_rows` writes.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}; evaluate the masks of every protocol first")
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [_row(line) for line in csv.DictReader(stream)]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is no table of 'evaluate masks' ({error}); evaluate the masks again") from None


def _row(line: dict[str, str]) -> Row:
    numbers = {metric: float(line[metric]) if line[metric] else None for metric in METRICS}
    found = Agreement(**numbers, status=line["status"])
    if found.status != "both_empty" and None in numbers.values():
        raise ValueError(f"{line['case']}, {line['structure']} lacks a number")
    return Row(line["case"], line["patient"], line["structure"], found)
