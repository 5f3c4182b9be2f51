"""The few volumes and facts that the report shows, taken out of cohorts while the pipeline still has them.

    previews/real.npz, synthetic.npz    names; spacing (N, 3) mm; NAME_image (X, Y, Z) float32 in [0, 1];
                                        NAME_labels class indices; CT also intensity_range (HU at 0 and at 1)
    previews/predictions.npz            the same, and protocols; NAME_PROTOCOL class indices

Axes are turned to the nearest RAS. Volumes longer than 160 voxels along an axis are thinned for the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from voxpair.cohorts.cohort import Cohort
from voxpair.core.case import Case
from voxpair.core.run import atomic_path, make_folder

WINDOW_HU = (-1000.0, 2000.0)
LONGEST_AXIS = 160


def write_pairs(path: Path, cohort: Cohort, count: int = 4) -> None:
    """Write ``count`` cases, evenly spaced over the cohort."""
    names = [cohort.names[i] for i in np.unique(np.linspace(0, len(cohort) - 1, count).round().astype(int))]
    write_cases(path, [cohort.read(name) for name in names], cohort.modality)


def write_cases(path: Path, cases: Sequence[Case], modality: str) -> None:
    """Write these annotated cases, all of them."""
    _write(path, cases, modality, {})


def write_predictions(path: Path, reference: Cohort, predictions: Mapping[str, Cohort], names: Sequence[str]) -> None:
    """Write the named cases with their true labels and what each protocol predicted."""
    cases = [reference.read(name) for name in names]
    _write(path, cases, reference.modality, {p: [made.read(n) for n in names] for p, made in predictions.items()})


def describe(cohort: Cohort) -> dict[str, Any]:
    """Return what a reader wants to know of a cohort at a glance, without reading every volume."""
    headers = [nib.load(record.image_path) for record in cohort.records]
    shapes = np.array([header.shape[:3] for header in headers])
    spacings = np.array([nib.affines.voxel_sizes(header.affine) for header in headers])
    attributes = {
        key: dict(Counter(str(record.attributes.get(key, "")) for record in cohort.records))
        for key in dict.fromkeys(key for record in cohort.records for key in record.attributes)
        if all(isinstance(record.attributes.get(key, ""), str) for record in cohort.records)
    }
    return {
        "cases": len(cohort),
        "labelled": len(cohort.labelled()),
        "patients": len(cohort.patients),
        "splits": cohort.split_counts,
        "modality": cohort.modality,
        "label_table": {s.name: [s.value, s.colour] for s in cohort.label_table.structures},
        "sizes": _range(shapes, "voxels"),
        "spacings": _range(spacings, "mm"),
        "attributes": attributes,
        "notes": list(cohort.notes),
    }


def _range(rows: np.ndarray, unit: str) -> str:
    ends = [(f"{low:g}" if low == high else f"{low:.3g} to {high:.3g}") for low, high in zip(rows.min(0), rows.max(0))]
    return f"{' × '.join(ends)} {unit}"


def _write(path: Path, cases: Sequence[Case], modality: str, predictions: Mapping[str, Sequence[Case]]) -> None:
    arrays: dict[str, np.ndarray] = {"names": np.array([case.name for case in cases])}
    for case in cases:
        arrays[f"{case.name}_image"] = _thin(_to_unit(_ras(case, case.image), modality))
        arrays[f"{case.name}_labels"] = _thin(case.label_table.to_classes(_ras(case, case.labels)))
    for protocol, predicted in predictions.items():
        for case in predicted:
            arrays[f"{case.name}_{protocol}"] = _thin(case.label_table.to_classes(_ras(case, case.labels)))
    if predictions:
        arrays["protocols"] = np.array(list(predictions))
    if modality == "CT":
        arrays["intensity_range"] = np.array(WINDOW_HU)
    arrays["spacing"] = np.array([_thinned_spacing_mm(case) for case in cases])
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def _ras(case: Case, array: np.ndarray) -> np.ndarray:
    return nib.apply_orientation(array, nib.io_orientation(case.affine))


def _thinned_spacing_mm(case: Case) -> np.ndarray:
    """Return the voxel size of a case as it is written: RAS axes, thinned."""
    axes = nib.io_orientation(case.affine)[:, 0].astype(int)
    spacing, shape = np.empty(3), np.empty(3, int)
    spacing[axes], shape[axes] = case.spacing_mm, case.image.shape
    return spacing * [_step(n) for n in shape]


def _to_unit(image: np.ndarray, modality: str) -> np.ndarray:
    low, high = WINDOW_HU if modality == "CT" else np.percentile(image, (0.5, 99.5))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _step(length: int) -> int:
    return -(-length // LONGEST_AXIS)


def _thin(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[tuple(slice(None, None, _step(n)) for n in array.shape)])
