"""Import: scans in the layout their owner has them in → a cohort.

In: a folder in one of ``LAYOUTS``, or two patterns for images and labels. Out: a cohort whose geometry is corrected
(see :mod:`voxpair.cohorts.volumes`), whose labels are uint8 values of one table, and notes about all that was
guessed, corrected or left out, which are what the user should read.

A layout is a function that lists scans and reads no volume. To add one, write such a function and enter it in
``LAYOUTS``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from voxpair.cohorts import volumes
from voxpair.cohorts.cohort import MODALITIES, SAME_GRID, Cohort, CohortWriter
from voxpair.cohorts.labelling import Labelling, number, of_table, read_label_table
from voxpair.cohorts.records import COLUMNS, parse_attribute, read_cases_csv
from voxpair.core.case import Case, Source
from voxpair.core.errors import InputError
from voxpair.core.labels import LABEL_TABLES, LabelTable
from voxpair.core.run import SILENT, Progress, read_json
from voxpair.core.settings import digest

SMALL_GAP = 0.1  # voxels between image and labels that are rounding of headers: the image's affine is taken
LOWEST_OF_MRI = -500  # below it, intensities are taken for HU: air is near -1000
_FRAME = re.compile(r"^(patient\d+)_frame\d+")  # ACDC: two frames of one patient


@dataclass(frozen=True)
class Scan:
    """One case as found: names and paths, nothing read. ``labels`` is None where there are none."""

    name: str
    image: Path
    labels: Path | None
    patient: str = ""
    source: Source = "real"
    split: str | None = None
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """What a layout says about a folder; a label table or modality of None means that it does not say."""

    scans: tuple[Scan, ...]
    label_table: LabelTable | None = None
    modality: str | None = None
    notes: tuple[str, ...] = ()
    manifest: Mapping[str, Any] | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        return tuple(scan.image for scan in self.scans)

    def digest(self) -> str:
        """Name the content: it changes with any file, name or attribute (see ``Cohort.digest``)."""
        mark = volumes.content_mark
        scans = [
            [s.name, s.patient, s.source, s.split, dict(s.attributes), mark(s.image), mark(s.labels)]
            for s in self.scans
        ]
        return digest([self.label_table.to_mapping() if self.label_table else None, self.modality, scans])


Layout = Callable[[Path, str | None, str | None], Listing]  # source, images, labels: the patterns


def import_scans(
    source: Path,
    destination: Path,
    *,
    layout: str = "auto",
    label_table: str | Path | None = None,
    modality: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    progress: Progress = SILENT,
    overwrite: bool = False,
) -> tuple[Cohort, list[str]]:
    """Make a cohort of the scans in ``source``; the same call after an interruption goes on.

    Args:
        source: folder with the scans; never changed.
        destination: folder of the new cohort.
        layout: a name in ``LAYOUTS``, or ``"auto"``.
        label_table: a built-in table, or a YAML or JSON file ``{name: value}``, or with its two parts named,
            ``{labels: {LA: 420}, aliases: {421: 420}}``. Without one: what the layout says, else the values found.
        modality: ``"CT"`` (HU) or ``"MRI"``. Without one: what the layout says, else guessed from the first image.
        images, labels: patterns relative to ``source``, each with one ``*`` that stands for the name of the case.
        progress: told about each scan.
        overwrite: replace a cohort that is there already.

    Returns:
        The cohort, and notes to be read; they are kept in its ``dataset.json`` too.

    Raises:
        InputError: the layout is not recognised, or scans cannot be trusted. Sound scans are imported first, so that
            one run names all bad ones, and the next goes on after they were mended.
    """
    source, destination = Path(source), Path(destination)
    if source.resolve() == destination.resolve():
        raise InputError(f"{destination} is where the scans are; name another folder for the cohort")
    listing = list_scans(source, layout, images, labels)
    notes = list(listing.notes)
    labelling = _labelling(listing, label_table, notes)
    modality = _modality(listing, modality, notes)
    writer = CohortWriter(destination, labelling.table, modality, overwrite)
    facts, problems = _Facts(), []
    progress.start(f"import {source.name}", len(listing.scans), len(writer))
    for scan in listing.scans:
        try:
            case = facts.add(scan, labelling)  # read again on resume: the notes are about all scans
        except InputError as error:
            problems.append(str(error))
            continue
        if not writer.has(scan.name):
            writer.add(case, scan.split)
            progress.advance()
    if problems:
        raise InputError(
            f"{len(problems)} of {len(listing.scans)} scans cannot be imported:\n  "
            + "\n  ".join(problems[:20])
            + f"\nMend them or take them out of {source}, then run the same command again."
        )
    notes += facts.notes()
    return writer.finish(listing.manifest, notes), notes


def list_scans(source: Path, layout: str = "auto", images: str | None = None, labels: str | None = None) -> Listing:
    """List the scans of a folder by name of layout; see :func:`import_scans`."""
    if not source.is_dir():
        raise InputError(f"there is no folder {source}")
    if layout == "auto":
        layout = "patterns" if images or labels else _recognise(source)
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; there are auto, {', '.join(LAYOUTS)}")
    if layout != "patterns" and (images or labels):
        raise InputError(f"patterns for images and labels go with layout 'patterns', not with {layout!r}")
    listing = LAYOUTS[layout](source, images, labels)
    if not listing.scans:
        raise InputError(f"{source} holds no scans in layout {layout!r}")
    counts = Counter(scan.name for scan in listing.scans)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise InputError(f"{source}: {counts[twice[0]]} scans would be called case {twice[0]!r}; rename the files")
    return _with_patients(source, listing)


def nnunet(source: Path, images: str | None, labels: str | None) -> Listing:
    """nnU-Net v2 raw, or a cohort: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz."""
    cohort = Cohort.open(source)
    made = cohort.manifest.get("cases", {})
    scans = [
        Scan(r.name, r.image_path, r.labels_path, r.patient, r.source, r.split, r.attributes, made.get(r.name, {}))
        for r in cohort.records
    ]
    notes = _left_out(source / "imagesTs")
    return Listing(tuple(scans), cohort.label_table, cohort.modality, notes, cohort.manifest or None)


def msd(source: Path, images: str | None, labels: str | None) -> Listing:
    """Medical Segmentation Decathlon: dataset.json lists pairs under "training" and labels as value: name."""
    path = source / "dataset.json"
    content = read_json(path)
    try:
        channels = list(content["modality"].values())
        pairs = [(source / pair["image"], source / pair["label"]) for pair in content["training"]]
        table = LabelTable.from_mapping(
            str(content.get("name", source.name)).lower(), {name: int(v) for v, name in content["labels"].items()}
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not of the Decathlon's form (modality, labels, training): {error!r}") from None
    if len(channels) != 1:
        raise InputError(f"{path} has {len(channels)} channels; voxpair reads one, so drop channel {channels[1]!r}")
    scans = []
    for image, label in pairs:
        name = image.name.removesuffix(".gz").removesuffix(".nii")
        if not image.exists() and (first_channel := image.with_name(f"{name}_0000.nii.gz")).exists():
            image = first_channel  # nnU-Net v1 lists names without the suffix that its files have
        for file in (image, label):
            if not file.exists():
                raise InputError(f"{path} lists {file}, which does not exist; copy it there or take it out of the list")
        scans.append(Scan(_clean(name), image, label))
    listed = {file.resolve() for pair in scans for file in (pair.image, pair.labels)}
    files = [p for folder in ("imagesTr", "labelsTr") for p in source.glob(f"{folder}/*.nii*")]
    unlisted = sum(not p.name.startswith("._") and p.resolve() not in listed for p in files)
    notes = _junk_note(sum(p.name.startswith("._") for p in files))
    if unlisted:
        notes.append(f"{unlisted} files in imagesTr and labelsTr that dataset.json does not list were left out")
    modality = "CT" if channels[0].upper() == "CT" else "MRI"
    return Listing(tuple(scans), table, modality, (*notes, *_left_out(source / "imagesTs")))


def patterns(source: Path, images: str | None, labels: str | None) -> Listing:
    """Any folder: --images 'images/*.nii.gz' --labels 'masks/*_mask.nii.gz', where * is the name of the case."""
    if not images:
        raise InputError("layout 'patterns' needs a pattern for the images, such as --images 'images/*.nii.gz'")
    label_files, junk = _match(source, labels) if labels else ({}, 0)
    image_files, more_junk = _match(source, images)
    masks = set(label_files.values())  # images '*.nii.gz' also match labels '*_seg.nii.gz'
    image_files = {name: path for name, path in image_files.items() if path not in masks}
    for what, pattern, found in (("image", images, image_files), ("label file", labels, label_files)):
        if pattern and not found:
            raise InputError(f"no {what} in {source} matches {pattern!r}{_examples(source)}")
    orphans = sorted(set(label_files) - set(image_files))
    if orphans:
        raise InputError(
            f"{label_files[orphans[0]]} has no image: {images.replace('*', orphans[0])} does not exist "
            f"({len(orphans)} such label files)"
        )
    scans = [Scan(_clean(name), path, label_files.get(name)) for name, path in sorted(image_files.items())]
    notes = _junk_note(junk + more_junk)
    if renamed := [name for name in image_files if _clean(name) != name]:
        notes.append(f"case names got _ for other characters, such as {_clean(renamed[0])!r} for {renamed[0]!r}")
    return Listing(tuple(scans), notes=tuple(notes))


LAYOUTS: dict[str, Layout] = {"nnunet": nnunet, "msd": msd, "patterns": patterns}


def _recognise(source: Path) -> str:
    path = source / "dataset.json"
    content = read_json(path) if path.exists() else None
    if isinstance(content, dict) and "channel_names" in content:
        return "nnunet"
    if isinstance(content, dict) and "modality" in content and "training" in content:
        return "msd"
    raise InputError(
        f"the layout of {source} is not recognised: looked for a dataset.json with channel_names (nnU-Net) or with "
        f"modality and training (Decathlon), found {'neither in it' if path.exists() else 'no such file'}. "
        f"Give --images and --labels patterns{_examples(source)}"
    )


def _examples(source: Path) -> str:
    found = [str(p.relative_to(source)) for p in source.rglob("*") if p.name.endswith(volumes.SUFFIXES)][:3]
    return f"; it holds for example {', '.join(sorted(found))}" if found else "; it holds no NIfTI or MGZ file at all"


def _match(source: Path, pattern: str) -> tuple[dict[str, Path], int]:
    """Return files by what ``*`` stands for, and the number of macOS's junk files among the matches."""
    if pattern.count("*") != 1 or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise InputError(f"pattern {pattern!r}: expected a path inside {source} with exactly one *, the case's name")
    before, after = Path(pattern).as_posix().split("*")
    found = {}
    for path in source.glob(f"{escape(before)}*{escape(after)}"):
        relative = path.relative_to(source).as_posix()
        found[relative[len(before) : len(relative) - len(after)]] = path
    junk = {name for name, path in found.items() if path.name.startswith("._")}
    return {name: path for name, path in found.items() if name not in junk}, len(junk)


def _junk_note(count: int) -> list[str]:
    return [f"{count} files named ._* (made by macOS) are no images and were left out"] if count else []


def _clean(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def _left_out(folder: Path) -> tuple[str, ...]:
    count = sum(p.name.endswith(volumes.SUFFIXES) and p.name[0] != "." for p in folder.glob("*"))
    if not count:
        return ()
    return (f"{count} test images in {folder.name} were left out; --images imports them if they are wanted",)


def _with_patients(source: Path, listing: Listing) -> Listing:
    """Fill in patients and attributes from a ``cases.csv`` beside the scans, or from the names; note what was done."""
    table = source / "cases.csv"
    rows = read_cases_csv(table) if table.exists() else {}
    scans, frames = [], 0
    for scan in listing.scans:
        row = rows.get(scan.name, {})
        frame = _FRAME.match(scan.name)
        patient = row.get("patient") or scan.patient
        if frame and patient in ("", scan.name):
            patient, frames = frame[1], frames + 1
        attributes = {k: parse_attribute(v) for k, v in row.items() if k not in COLUMNS and v != ""}
        scans.append(replace(scan, patient=patient or scan.name, attributes=attributes or scan.attributes))
    notes = list(listing.notes)
    if without := sum(scan.labels is None for scan in scans):
        notes.append(f"{without} of {len(scans)} images have no labels: imported as unlabelled")
    if frames:
        notes.append(f"the patients of {frames} cases were taken from names such as patient001_frame01")
    return replace(listing, scans=tuple(scans), notes=tuple(notes))


def labelling_of(label_table: str | Path | None) -> Labelling | None:
    """Return what a built-in table or a file says; None where none is given."""
    if label_table is None:
        return None
    known = LABEL_TABLES.get(str(label_table))
    return of_table(known) if known else read_label_table(Path(label_table))


def check_modality(modality: str | None) -> None:
    if modality not in (None, *MODALITIES):
        raise InputError(f"modality {modality!r}: expected one of {', '.join(MODALITIES)}")


def _labelling(listing: Listing, given: str | Path | None, notes: list[str]) -> Labelling:
    if labelling := labelling_of(given):
        return labelling
    if listing.label_table is not None:
        return of_table(listing.label_table)
    found: set[int] = {0}
    for scan in listing.scans:
        if scan.labels is not None:
            found |= set(volumes.count_values(volumes.read_labels(scan.labels)[0]))
    labelling = number({f"structure_{v}": v for v in sorted(found - {0})}, "found", {})
    if found == {0}:
        notes.append("no label table was given and no labels were found: the label table is empty")
    else:
        notes.append(
            f"no label table was given: the values found, {sorted(found - {0})}, were called "
            f"{', '.join(labelling.table.names)}; --label-table gives them names"
        )
    return labelling


def _modality(listing: Listing, given: str | None, notes: list[str]) -> str:
    check_modality(given)
    if given is not None:
        return given
    if listing.modality is not None:
        return listing.modality
    lowest = float(volumes.read_image(listing.scans[0].image)[0].min())
    guess = "CT" if lowest <= LOWEST_OF_MRI else "MRI"
    notes.append(f"modality {guess} was guessed: the lowest value of case {listing.scans[0].name} is {lowest:g}")
    return guess


class _Facts:
    """Reads scans, and collects what the user should know about them together."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.types: Counter[str] = Counter()
        self.spacings_mm: list[tuple[float, ...]] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.tops: list[float] = []

    def add(self, scan: Scan, labelling: Labelling) -> Case:
        """Read one scan as a case in the cohort's table."""
        image, affine, notes = volumes.read_image(scan.image)
        labels = None
        if scan.labels is not None:
            labels, labels_affine, label_notes = volumes.read_labels(scan.labels)
            notes = list(dict.fromkeys(notes + label_notes))
            if labels.shape != image.shape:
                raise InputError(f"{scan.labels} has shape {labels.shape}, its image {scan.image.name} {image.shape}")
            gap = volumes.grid_gap(affine, labels_affine, image.shape)
            if gap > SMALL_GAP:
                raise InputError(f"{scan.labels} lies up to {gap:.3g} voxels away from its image, by their affines")
            if gap > SAME_GRID:
                notes.append("labels lie less than a tenth of a voxel off the image: the image's affine was taken")
            labels = labelling.apply(labels, str(scan.labels))
        case = Case(
            name=scan.name,
            image=image,
            labels=labels,
            affine=affine,
            label_table=labelling.table,
            patient=scan.patient,
            source=scan.source,
            attributes=dict(scan.attributes),
            provenance=scan.provenance,
        )
        self.counts.update(notes)
        self.types[volumes.stored_type(scan.image)] += 1
        self.spacings_mm.append(case.spacing_mm)
        self.shapes.add(image.shape)
        self.tops.append(float(np.percentile(image, 99)))
        return case

    def notes(self) -> list[str]:
        total = len(self.tops)
        low, high = np.min(self.spacings_mm, axis=0), np.max(self.spacings_mm, axis=0)
        spacing = " x ".join(f"{a:.4g}" if a == b else f"{a:.4g}-{b:.4g}" for a, b in zip(low.round(4), high.round(4)))
        small, large = min(self.shapes, key=np.prod), max(self.shapes, key=np.prod)
        sizes = f"{len(self.shapes)} sizes from {small} to {large}" if len(self.shapes) > 1 else f"1 size {small}"
        notes = [f"{count} of {total} cases: {note}" for note, count in self.counts.items()]
        if len(self.types) > 1:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.types.most_common())
            notes.append(f"the images are stored in different types: {kinds}")
        positive = [top for top in self.tops if top > 0]
        if positive and max(positive) > 10 * min(positive):
            notes.append(
                f"intensity scales differ: the 99th percentile runs from {min(positive):.4g} to {max(positive):.4g}"
            )
        return [*notes, f"{total} cases imported; spacing {spacing} mm; {sizes}"]
