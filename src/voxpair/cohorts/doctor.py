"""The data doctor: finds what is wrong with a cohort before hours are spent on it, and mends what is safe on a copy.

In: a cohort, or the folder of one that does not even open. Out: a list of findings, each with advice; never an
exception for a bad file, so that one look names them all.

    severity   meaning
    error      the case cannot be used as it is, or would falsify results
    warning    usable, but probably not what its owner thinks it is
    note       worth knowing; often right for this kind of data
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from voxpair.cohorts import volumes
from voxpair.cohorts.cohort import SAME_GRID, Cohort, CohortWriter
from voxpair.cohorts.records import CaseRecord, list_records, read_description
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import SILENT, Progress, make_folder, write_json, write_text

MENDABLE_GAP = 0.1  # voxels: what rounding in headers can explain; more is a shift that somebody must look at
MENDABLE_ROUNDING = 0.05  # how far labels may be from whole numbers to be rounded; a mixture of classes is farther
OUTLIER_DEVIATIONS = 5.0  # robust standard deviations (1.4826 x median absolute deviation) of the logarithm
OUTLIER_FACTOR = 10.0  # and at least this factor from the cohort's median: one order of magnitude
SPACING_FACTOR = 2.0

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing found. ``case`` is empty where it is about the whole cohort; ``fixable`` says that :func:`fix` acts."""

    case: str
    severity: Severity
    what: str
    advice: str
    fixable: bool = False

    def as_text(self) -> str:
        return f"{self.case}: {self.what.rstrip('.')}. {self.advice}"


@dataclass(frozen=True)
class _Facts:
    """What comparing cases needs to know of each."""

    record: CaseRecord
    content: str  # hash of the voxels
    scale: float  # distance from 1st to 99th percentile of the intensities
    spacing_mm: np.ndarray
    structures: frozenset[str] | None


def check(cohort: Cohort | Path, *, progress: Progress = SILENT) -> list[Finding]:
    """Look at every case, alone and beside the others.

    Args:
        cohort: a cohort, or a folder with at least a readable ``dataset.json``.
        progress: told about each case.

    Raises:
        InputError: only where there is no cohort to look at: no folder, no or an unreadable list.
    """
    _, records, table, modality, problems = _opened(cohort)
    findings = [
        Finding(case, "error", what, "Correct the list or restore the file.", bool(records)) for case, what in problems
    ]
    if not records:
        findings.append(Finding("", "error", "there are no usable cases", "Import scans first."))
    facts = []
    progress.start("check", len(records))
    for record in records:
        try:
            found, fact = _examine(record, table, modality)
            findings += found
            facts.append(fact)
        except InputError as error:
            advice = "Mend or replace the file; --fix makes a copy without the case."
            findings.append(Finding(record.name, "error", str(error), advice, True))
        progress.advance()
    return [*findings, *_compare(facts), *_duplicates(facts), *_never_seen(facts, table)]


def fix(cohort: Cohort | Path, destination: Path, *, progress: Progress = SILENT, overwrite: bool = False) -> list[str]:
    """Write a mended copy of a cohort, doing only what cannot be wrong, and return what was done, case by case.

    Labels close to whole numbers are rounded; labels whose affine differs from the image's by rounding get the
    image's; second copies of an image and cases that cannot be used are left out. Other maps of a case, such as a
    phantom's ``labelsClean``, come along as they are. The original is not touched.

    Raises:
        InputError: nothing usable would be left, or ``destination`` is the cohort itself.
    """
    folder, records, table, modality, problems = _opened(cohort)
    if folder.resolve() == Path(destination).resolve():
        raise InputError(f"{destination} is the cohort itself; the mended copy needs another folder")
    done = [f"{case or folder.name}: left out ({what})" for case, what in problems]
    whole = Cohort(folder, tuple(records), table, modality)
    writer = CohortWriter(destination, table, modality, overwrite)
    provenance = whole.manifest.get("cases", {})
    seen: dict[str, str] = {}
    progress.start("fix", len(records))
    for record in records:
        progress.advance()
        try:
            case, mended = _mend(record, table, provenance.get(record.name, {}))
        except InputError as error:
            done.append(f"{record.name}: left out ({error})")
            continue
        content = _content(case.image)
        if content in seen:
            done.append(f"{record.name}: left out (the same image as {seen[content]})")
            continue
        seen[content] = record.name
        done += [f"{record.name}: {what}" for what in mended]
        if not writer.has(record.name):
            _copy_other_labels(whole, record.name, writer.folder)  # first: a case that is counted has all its files
            writer.add(case, record.split)
    facts = {key: value for key, value in whole.manifest.items() if key != "cases"}
    writer.finish(facts or None, done)
    return done


def _copy_other_labels(cohort: Cohort, name: str, destination: Path) -> None:
    """Copy the maps of a case that lie beside its labels, such as a phantom's ``labelsClean``, as they are."""
    for folder in cohort.manifest.get("other_labels", []):
        maps = cohort.folder / folder / f"{name}.nii.gz"
        if maps.is_file():
            make_folder(destination / folder)
            shutil.copyfile(maps, destination / folder / maps.name)


def write_findings(findings: Sequence[Finding], path: Path) -> None:
    """Write findings as ``.csv`` or ``.json``."""
    path, rows = Path(path), [asdict(finding) for finding in findings]
    if path.suffix == ".json":
        write_json(path, rows)
    elif path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(Finding.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
    else:
        raise InputError(f"{path}: findings are written as .csv or .json")


def _opened(cohort: Cohort | Path) -> tuple[Path, list[CaseRecord], LabelTable, str, list[tuple[str, str]]]:
    if isinstance(cohort, Cohort):
        return cohort.folder, list(cohort.records), cohort.label_table, cohort.modality, []
    folder = Path(cohort)
    table, modality, _ = read_description(folder)
    records, problems = list_records(folder)
    return folder, records, table, modality, problems


def _content(image: np.ndarray) -> str:
    return hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()


def _examine(record: CaseRecord, table: LabelTable, modality: str) -> tuple[list[Finding], _Facts]:
    """Look at one case; an image that cannot be read is an InputError, everything else a finding."""
    image, affine, notes = volumes.read_image(record.image_path)
    name = record.name
    findings = [
        Finding(name, "note", f"{record.image_path.name}: {note}", "See that the spacing is right.") for note in notes
    ]
    if not volumes.is_orthonormal(affine):
        what = "the voxel axes are not at right angles, which ITK-based tools refuse"
        findings.append(
            Finding(name, "warning", what, "Resample the scan onto a straight grid if such tools are used.")
        )
    low, high = np.percentile(image, (1, 99))
    if image.min() == image.max():
        what, advice = f"every voxel of the image is {image.flat[0]:g}", "Export it again; --fix leaves the case out."
        findings.append(Finding(name, "error", what, advice, True))
    elif modality == "CT" and image.min() >= 0:
        what = f"the lowest value is {image.min():g}, but a CT in HU has air near -1000"
        findings.append(
            Finding(name, "warning", what, "Was 1024 added, or is it no CT? Then convert, or set modality.")
        )
    structures = None
    if record.labels_path is not None:
        found, structures = _examine_labels(record, image.shape, affine, table)
        findings += found
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    return findings, _Facts(record, _content(image), float(high - low), spacing_mm, structures)


def _examine_labels(
    record: CaseRecord, shape: tuple[int, ...], affine: np.ndarray, table: LabelTable
) -> tuple[list[Finding], frozenset[str] | None]:
    name = record.name
    try:
        labels, labels_affine, _ = volumes.read_labels(record.labels_path)
    except InputError as error:
        return [_unreadable_labels(record, error)], None
    if labels.shape != shape:
        what = f"the labels have shape {labels.shape}, the image {shape}"
        return [Finding(name, "error", what, "Resample the labels onto the image (nearest neighbour).", True)], None
    findings = []
    gap = volumes.grid_gap(affine, labels_affine, shape)
    if gap > SAME_GRID:
        mendable = gap <= MENDABLE_GAP
        what = f"image and labels lie up to {gap:.3g} voxels apart by their affines"
        advice = (
            "Rounding of headers: --fix takes the image's affine."
            if mendable
            else "Look at both together. If they match, one header is wrong; else resample. --fix leaves the case out."
        )
        findings.append(Finding(name, "error", what, advice, True))
    try:
        table.check(labels, str(record.labels_path))
    except InputError as error:
        advice = "Import again with a label table that has the value, or an alias. --fix leaves the case out."
        return [*findings, Finding(name, "error", str(error), advice, True)], None
    present = frozenset(s.name for s in table.structures if (labels == s.value).any())
    if not present:
        what, advice = "the labels are empty", "Remove the label file if nobody has annotated this case."
        return [*findings, Finding(name, "warning", what, advice)], present
    missing = [s for s in table.names if s not in present]
    if missing:
        what = f"structures without a voxel: {', '.join(missing)}"
        findings.append(Finding(name, "warning", what, "Right where it is absent or out of view; else annotate it."))
    cut = [s.name for s in table.structures if s.name in present and _touches_border(labels == s.value)]
    if cut:
        what = f"structures cut off by the border of the volume: {', '.join(cut)}"
        findings.append(Finding(name, "note", what, "Do not measure their volume or shape in this case."))
    return findings, present


def _unreadable_labels(record: CaseRecord, error: InputError) -> Finding:
    """Tell labels that rounding mends from those that nothing mends."""
    try:
        volumes.read_labels(record.labels_path, rounding=MENDABLE_ROUNDING)
    except InputError:
        return Finding(record.name, "error", str(error), "Export the labels again. --fix leaves the case out.", True)
    return Finding(record.name, "error", str(error), "All are close to whole numbers: --fix rounds them.", True)


def _touches_border(mask: np.ndarray) -> bool:
    return any(mask.take(end, axis).any() for axis in range(3) for end in (0, -1))


def _compare(facts: Sequence[_Facts]) -> Iterator[Finding]:
    """Find cases whose intensities or spacing are unlike those of most others."""
    usable = [fact for fact in facts if fact.scale > 0]
    if len(usable) >= 3:
        logs = np.log10([fact.scale for fact in usable])
        centre = np.median(logs)
        spread = 1.4826 * np.median(np.abs(logs - centre))
        limit = max(np.log10(OUTLIER_FACTOR), OUTLIER_DEVIATIONS * spread)
        for fact, value in zip(usable, logs):
            if abs(value - centre) > limit:
                what = f"the intensities span {fact.scale:.3g}, those of the median case {10**centre:.3g}"
                yield Finding(
                    fact.record.name, "note", what, "Harmless for MRI, where each scan is normalised; not for CT."
                )
    if len(facts) >= 3:
        median = np.median([np.sort(fact.spacing_mm) for fact in facts], axis=0)
        for fact in facts:
            ratio = np.sort(fact.spacing_mm) / median
            if max(ratio.max(), 1 / ratio.min()) > SPACING_FACTOR:
                own, usual = (" x ".join(f"{v:.3g}" for v in s) for s in (np.sort(fact.spacing_mm), median))
                what = f"the spacing is {own} mm (sorted), that of the median case {usual} mm"
                yield Finding(fact.record.name, "warning", what, "See that the header is right.")


def _duplicates(facts: Sequence[_Facts]) -> Iterator[Finding]:
    same = defaultdict(list)
    for fact in facts:
        same[fact.content].append(fact.record)
    for first, *others in same.values():
        for other in others:
            across = other.patient != first.patient
            what = f"the image is the same as that of {first.name}" + (", of another patient" if across else "")
            advice = "One of two patients would be tested on its training scan" if across else "The scan counts twice"
            yield Finding(
                other.name, "error" if across else "warning", what, f"{advice}: --fix keeps {first.name} only.", True
            )


def _never_seen(facts: Sequence[_Facts], table: LabelTable) -> Iterator[Finding]:
    annotated = [fact.structures for fact in facts if fact.structures]
    for name in table.names if annotated else ():
        if not any(name in structures for structures in annotated):
            yield Finding("", "warning", f"no case has structure {name}", "Take it out of the label table.")


def _mend(record: CaseRecord, table: LabelTable, provenance: dict) -> tuple[Case, list[str]]:
    """Read a case with the small tolerances of this module; say what they were needed for."""
    image, affine, _ = volumes.read_image(record.image_path)
    labels, done = None, []
    if image.min() == image.max():
        raise InputError(f"{record.image_path}: every voxel is {image.flat[0]:g}")
    if record.labels_path is not None:
        try:
            labels, labels_affine, _ = volumes.read_labels(record.labels_path)
        except InputError:
            labels, labels_affine, _ = volumes.read_labels(record.labels_path, rounding=MENDABLE_ROUNDING)
            done.append("labels rounded to whole numbers")
        gap = volumes.grid_gap(affine, labels_affine, image.shape)
        if labels.shape == image.shape and gap > MENDABLE_GAP:
            raise InputError(f"{record.labels_path} lies up to {gap:.3g} voxels away from its image")
        if gap > SAME_GRID:
            done.append(f"labels got the image's affine ({gap:.3g} voxels apart)")
    patient, attributes = record.patient, record.attributes
    case = Case(record.name, image, labels, affine, table, patient, record.source, attributes, provenance)
    return case, done
