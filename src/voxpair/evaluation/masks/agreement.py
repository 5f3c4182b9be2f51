"""Do predicted masks agree with reference masks? Per structure and case, then per cohort.

Takes two cohorts that hold the same cases; gives ``masks.csv`` (a line per case and structure) and ``masks.json``
(means, intervals, counts). Eleven public tools disagree on surface distances by more than 100 mm (Podobnik & Vrtovec
2024, arXiv 2410.02630), so the definitions are spelled out here; they are MONAI's, and the tests hold us to it.

    surface     voxels of the mask with a face neighbour outside it, or at the border of the image; their centres
    distance    Euclidean, in mm, from each surface voxel of one mask to the nearest of the other
    dice        2 |P and R| / (|P| + |R|)
    hd95_mm     95th percentile of the distances in each direction (linear interpolation), the larger of the two
    assd_mm     mean over the distances of both directions pooled
    nsd         share of the surface voxels of both masks that lie within ``tolerance_mm`` of the other surface
    volume_error_ml   predicted minus reference volume

When a structure is absent (R reference, P prediction):

    status       R    P     dice  nsd   distances  meaning
    ok           yes  yes   > =0  > =0  defined
    pred_empty   yes  no    0     0     null       missed, or the case has no prediction at all
    ref_empty    no   yes   0     0     null       invented
    both_empty   no   no    null  null  null       rightly absent: counted, in no mean

Where one mask is empty a mean distance takes the diagonal of the image, which no true distance exceeds (the BraTS
challenges do the same): a structure that was missed never improves a mean. ``undefined`` says how often.

Shapes: X Y Z volume axes, N cases, K structures.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from voxpair.core.case import Case, LabelMap
from voxpair.core.errors import InputError
from voxpair.core.run import SILENT, Progress, atomic_path, make_folder, write_json
from voxpair.evaluation.masks import NSD_TOLERANCE_MM
from voxpair.evaluation.statistics import bootstrap_interval, sample_sd

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort

Labelled = Case | LabelMap
Status = Literal["ok", "ref_empty", "pred_empty", "both_empty"]
STATUSES: tuple[Status, ...] = ("ok", "ref_empty", "pred_empty", "both_empty")
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
class Estimate:
    """A mean over cases with its SD and its 95 % bootstrap interval over patients; None where it cannot be known.

    ``cases`` entered the mean; for ``undefined`` of them one mask was empty and a distance took its worst value.
    """

    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    cases: int
    undefined: int = 0


@dataclass(frozen=True)
class StructureSummary:
    """All metrics of one structure, and how many cases have which status."""

    dice: Estimate
    hd95_mm: Estimate
    assd_mm: Estimate
    nsd: Estimate
    volume_error_ml: Estimate
    counts: Mapping[Status, int]


@dataclass(frozen=True)
class Summary:
    """What ``masks.json`` holds.

    ``dice`` is the mean over structures of each structure's mean over cases; its SD is over cases, of the mean over
    the structures of a case; its interval draws patients.
    """

    dice: Estimate
    structures: Mapping[str, StructureSummary]
    cases: int
    patients: int
    tolerance_mm: float
    missing_predictions: Sequence[str]
    extra_predictions: Sequence[str]

    def as_text(self) -> str:
        """Return the means for a terminal, a line per structure."""
        lines = [f"{'structure':<16}{'Dice':>8}{'HD95 mm':>10}{'NSD':>8}   over {self.cases} cases"]
        for name, found in self.structures.items():
            means = [found.dice.mean, found.hd95_mm.mean, found.nsd.mean]
            dice, hd95, nsd = ("-" if mean is None else f"{mean:.3f}" for mean in means)
            lines.append(f"{name:<16}{dice:>8}{hd95:>10}{nsd:>8}")
        mean = "-" if self.dice.mean is None else f"{self.dice.mean:.3f}"
        return "\n".join([*lines, f"{'mean':<16}{mean:>8}"])


@dataclass(frozen=True)
class Row:
    """One line of ``masks.csv``; ``diagonal_mm`` is kept for the means and not written."""

    case: str
    patient: str
    structure: str
    agreement: Agreement
    diagonal_mm: float


def agreement(
    predicted: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> Agreement:
    """Compare two masks of one structure.

    Args:
        predicted, reference: same shape (X, Y, Z), bool or 0/1.
        spacing_mm: voxel size along X, Y, Z.
        tolerance_mm: deviation of the surface that ``nsd`` accepts, 0 or more.

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
    if not tolerance_mm >= 0:
        raise InputError(f"tolerance_mm must be 0 or more, got {tolerance_mm}")

    predicted_size, reference_size = int(predicted.sum()), int(reference.sum())
    volume_error_ml = (predicted_size - reference_size) * float(spacing.prod()) / 1000
    if not predicted_size and not reference_size:
        return Agreement(None, None, None, None, 0.0, "both_empty")
    if not predicted_size or not reference_size:
        return Agreement(0.0, None, None, 0.0, volume_error_ml, "ref_empty" if predicted_size else "pred_empty")

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


def evaluate_masks(
    predictions: Cohort,
    reference: Cohort,
    out: Path,
    *,
    tolerance_mm: float = NSD_TOLERANCE_MM,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Summary:
    """Compare predictions with the labelled cases of ``reference`` by name; write ``masks.csv`` and ``masks.json``.

    A reference case without a prediction counts as a prediction that is empty, and is named in the summary; so is a
    prediction without a reference case, which counts for nothing.

    Args:
        predictions, reference: cohorts with the same label table.
        out: folder for the two files; made if need be.
        tolerance_mm: see :func:`agreement`.
        seed: of the bootstrap.

    Raises:
        InputError: no labelled reference case, other label tables, or a prediction on another grid.
    """
    wanted = reference.labelled()
    if not wanted.records:
        raise InputError("the reference cohort has no labelled case, so there is nothing to compare with")
    ours, theirs = predictions.label_table.to_mapping(), reference.label_table.to_mapping()
    if ours != theirs:
        raise InputError(f"the predictions have the labels {ours}, the reference {theirs}; give both the same table")
    predicted_names = {record.name for record in predictions.labelled().records}
    missing = [record.name for record in wanted.records if record.name not in predicted_names]
    extra = sorted(predicted_names - {record.name for record in reference.records})

    rows: list[Row] = []
    progress.start("evaluate masks", total=len(wanted.records))
    for record in wanted.records:
        predicted = predictions.read_labels(record.name) if record.name in predicted_names else None
        rows += compare_case(predicted, wanted.read_labels(record.name), tolerance_mm)
        progress.advance()
    summary = summarise(rows, tolerance_mm=tolerance_mm, missing=missing, extra=extra, seed=seed)
    make_folder(Path(out))
    _write_rows(Path(out) / "masks.csv", rows)
    write_json(Path(out) / "masks.json", asdict(summary))
    if missing:
        progress.say(f"no prediction for {len(missing)} cases, each counted as missed: {', '.join(missing)}")
    if extra:
        progress.say(
            f"predictions of {len(extra)} cases that the reference does not have, left out: {', '.join(extra)}"
        )
    return summary


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
        found = agreement(guess, truth, spacing, tolerance_mm)
        rows.append(Row(reference.name, reference.patient, structure.name, found, diagonal_mm))
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


def summarise(
    rows: Sequence[Row], *, tolerance_mm: float, missing: Sequence[str] = (), extra: Sequence[str] = (), seed: int = 0
) -> Summary:
    """Return means, intervals and counts of ``rows``; the module says how empty structures enter."""
    cases = list(dict.fromkeys((row.case, row.patient) for row in rows))
    structures = list(dict.fromkeys(row.structure for row in rows))
    patients = [patient for _, patient in cases]
    table = {(row.case, row.structure): row for row in rows}
    scores = {
        metric: np.array([[_score(table[case, name], metric) for name in structures] for case, _ in cases])
        for metric in METRICS
    }
    statuses = {name: [table[case, name].agreement.status for case, _ in cases] for name in structures}

    def estimate(metric: str, columns: Sequence[int], undefined: int = 0) -> Estimate:
        return _estimate(scores[metric][:, columns], patients, undefined, seed)

    summaries = {}
    for column, name in enumerate(structures):
        counts = Counter(statuses[name])
        one_sided = counts["pred_empty"] + counts["ref_empty"]
        summaries[name] = StructureSummary(
            **{m: estimate(m, [column], one_sided if m in ("hd95_mm", "assd_mm") else 0) for m in METRICS},
            counts={status: counts[status] for status in STATUSES},
        )
    return Summary(
        dice=estimate("dice", range(len(structures))),
        structures=summaries,
        cases=len(cases),
        patients=len(set(patients)),
        tolerance_mm=float(tolerance_mm),
        missing_predictions=list(missing),
        extra_predictions=list(extra),
    )


def _score(row: Row, metric: str) -> float:
    """Return what ``row`` adds to the mean of ``metric``; NaN, which no file ever sees, marks a score left out."""
    if row.agreement.status == "both_empty":
        return np.nan
    value = getattr(row.agreement, metric)
    return row.diagonal_mm if value is None else value


def _estimate(scores: np.ndarray, patients: Sequence[str], undefined: int, seed: int) -> Estimate:
    """Summarise ``scores`` of shape (N, K): mean over the K structures of the mean over cases."""
    defined = np.isfinite(scores)
    columns = scores[:, defined.any(axis=0)]
    rows = scores[defined.any(axis=1)]
    if not columns.size:
        return Estimate(None, None, None, None, 0, undefined)
    low, high = bootstrap_interval(scores, patients, seed=seed)
    return Estimate(
        mean=float(np.nanmean(columns, axis=0).mean()),
        sd=sample_sd(np.nanmean(rows, axis=1)),
        low=low,
        high=high,
        cases=len(rows),
        undefined=undefined,
    )


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in rows:
            numbers = [getattr(row.agreement, metric) for metric in METRICS]
            cells = ["" if number is None else repr(number) for number in numbers]
            writer.writerow([row.case, row.patient, row.structure, *cells, row.agreement.status])
