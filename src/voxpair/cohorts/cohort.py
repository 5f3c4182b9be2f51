"""The cohort: a folder of cases in nnU-Net v2's raw layout, which every stage reads and most stages write.

    dataset.json              nnU-Net's keys, and a "voxpair" block: label table, colours, modality, notes
    imagesTr/CASE_0000.nii.gz
    labelsTr/CASE.nii.gz      absent for unlabelled cases
    cases.csv                 case, patient, source, split, labelled, and free columns (attributes of the case)
    manifest.json             what made the cases: facts of the generator, and each case's provenance
    cases.jsonl               only while the cohort is being written: the journal

A plain nnU-Net folder, without ``cases.csv`` and the block, is a cohort too: each case is its own patient then.

While a cohort is written, each case counts from the moment its line in the journal has reached the disk; a kill at
any time costs at most the case in work. ``dataset.json`` is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from voxpair.cohorts import journal, volumes
from voxpair.cohorts.records import (
    COLUMNS,
    CaseRecord,
    image_path,
    labels_path,
    list_records,
    read_cases_csv,
    read_description,
    write_cases_csv,
)
from voxpair.core.case import Case, LabelMap
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import make_folder, read_json, write_json
from voxpair.core.settings import digest

MODALITIES = ("CT", "MRI")
SAME_GRID = 0.01  # voxels that the corners of image and labels may lie apart: rounding of headers, not a shift


@dataclass(frozen=True)
class Cohort:
    """Cases of one folder, or some of them. Volumes are read when asked for, one at a time.

    See :class:`CohortWriter` for an example.
    """

    folder: Path
    records: tuple[CaseRecord, ...]
    label_table: LabelTable
    modality: str
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path) -> Cohort:
        """Open a finished cohort or an nnU-Net raw dataset.

        Raises:
            InputError: the folder is no cohort, half-made or empty, or its lists and files contradict each other.
        """
        folder = Path(folder)
        label_table, modality, notes = read_description(folder)
        records, problems = list_records(folder)
        if problems:
            more = f" ({len(problems) - 1} more such problems: voxpair check lists them)" if len(problems) > 1 else ""
            raise InputError(problems[0][1] + more)
        if not records:
            raise InputError(f"{folder} has no cases: imagesTr holds no file that ends in _0000.nii.gz")
        return cls(folder, tuple(records), label_table, modality, notes)

    @staticmethod
    def is_ours(folder: Path) -> bool:
        """True if voxpair made the cohort in ``folder``: its ``dataset.json`` has the block that says so."""
        path = Path(folder) / "dataset.json"
        return path.exists() and "voxpair" in read_json(path)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Case]:
        return (self._read(record) for record in self.records)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(record.name for record in self.records)

    @property
    def images(self) -> tuple[Path, ...]:
        return tuple(record.image_path for record in self.records)

    @property
    def patients(self) -> tuple[str, ...]:
        """Patients in order of first appearance."""
        return tuple(dict.fromkeys(record.patient for record in self.records))

    @property
    def split_counts(self) -> dict[str, int]:
        """Number of cases by split; cases that are in none are counted under ``""``."""
        return dict(Counter(record.split or "" for record in self.records))

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """``manifest.json``, empty where there is none."""
        path = self.folder / "manifest.json"
        return MappingProxyType(read_json(path) if path.exists() else {})

    def read(self, name: str) -> Case:
        """Read one case.

        Raises:
            InputError: no such case; a file cannot be trusted; image and labels lie on different grids;
                a label is not in the table.
        """
        return self._read(self._record(name))

    def read_labels(self, name: str) -> LabelMap:
        """Read the labels of one annotated case, not its image.

        Raises:
            InputError: no such case or no labels; the file cannot be trusted; a label is not in the table.
        """
        record = self._record(name)
        if record.labels_path is None:
            raise InputError(f"case {name} of {self.folder} has no labels")
        labels, affine, _ = volumes.read_labels(record.labels_path)
        self.label_table.check(labels, str(record.labels_path))
        return LabelMap(record.name, record.patient, labels, affine, self.label_table)

    def subset(self, names: Sequence[str]) -> Cohort:
        """Return the named cases, in the order of ``names``."""
        records = {record.name: record for record in self.records}
        for name in names:
            if name not in records:
                raise InputError(f"no case {name!r} among these {len(self)} cases of {self.folder}")
        return replace(self, records=tuple(records[name] for name in names))

    def split(self, name: str) -> Cohort:
        """Return the cases whose split is ``name``; none is an error, since nothing good follows from it."""
        records = tuple(record for record in self.records if record.split == name)
        if not records:
            found = ", ".join(f"{n} in {split!r}" for split, n in self.split_counts.items() if split)
            raise InputError(
                f"{self.folder} has no cases in split {name!r}; it has {found}"
                if found
                else f"{self.folder} is not split yet; run: voxpair split {self.folder} --train 0.8 --val 0.2"
            )
        return replace(self, records=records)

    def labelled(self) -> Cohort:
        return replace(self, records=tuple(r for r in self.records if r.labels_path is not None))

    def unlabelled(self) -> Cohort:
        return replace(self, records=tuple(r for r in self.records if r.labels_path is None))

    def digest(self) -> str:
        """Name the content: 16 hex digits that change with the records, the label table or any voxel.

        It stays the same when the folder is moved or copied. Cheap: of each ``.nii.gz`` only the size and the last
        eight bytes are read, which are gzip's own checksum (CRC-32) and length of the uncompressed volume.
        """
        mark = volumes.content_mark
        records = [
            [r.name, r.patient, r.source, r.split, dict(r.attributes), mark(r.image_path), mark(r.labels_path)]
            for r in self.records
        ]
        return digest([self.label_table.to_mapping(), self.modality, records])

    def _record(self, name: str) -> CaseRecord:
        for record in self.records:
            if record.name == name:
                return record
        raise InputError(f"no case {name!r} among these {len(self)} cases of {self.folder}")

    def _read(self, record: CaseRecord) -> Case:
        image, affine, _ = volumes.read_image(record.image_path)
        labels = None
        if record.labels_path is not None:
            labels, labels_affine, _ = volumes.read_labels(record.labels_path)
            check_same_grid(record, image.shape, affine, labels.shape, labels_affine)
            self.label_table.check(labels, str(record.labels_path))
        provenance = self.manifest.get("cases", {}).get(record.name, {})
        return Case(
            record.name, image, labels, affine, self.label_table,
            record.patient, record.source, record.attributes, provenance,
        )  # fmt: skip


def check_same_grid(record: CaseRecord, image_shape, image_affine, labels_shape, labels_affine) -> None:
    """Raise unless image and labels have the same shape and their corners coincide within ``SAME_GRID`` voxels."""
    if image_shape != labels_shape:
        raise InputError(
            f"case {record.name}: {record.labels_path} has shape {labels_shape}, its image has {image_shape}. "
            "Resample the labels onto the image (nearest neighbour)."
        )
    gap = volumes.grid_gap(image_affine, labels_affine, image_shape)
    if gap > SAME_GRID:
        raise InputError(
            f"case {record.name}: {record.labels_path} lies up to {gap:.3g} voxels away from its image, by their "
            "affines. voxpair check says more, and its --fix mends differences below a tenth of a voxel."
        )


class CohortWriter:
    """Writes a cohort case by case, and goes on where an interrupted writer stopped.

    Args:
        folder: new, empty, or left half-made by an earlier writer with the same label table and modality.
        label_table, modality: of all cases; modality is ``"CT"`` (HU) or ``"MRI"`` (arbitrary units).
        overwrite: remove a cohort that voxpair made there before. Only files that its list names are removed.

    Raises:
        InputError: the folder holds a finished cohort, or files of somebody else.

    >>> import numpy as np, tempfile
    >>> from voxpair.core.labels import ACDC
    >>> folder = tempfile.TemporaryDirectory()
    >>> writer = CohortWriter(folder.name, ACDC, "MRI")
    >>> for name in ("ann", "bob"):
    ...     if not writer.has(name):
    ...         volume = np.ones((4, 5, 6), np.uint8)
    ...         writer.add(Case(name, volume, volume, np.diag([2, 2, 8, 1]), ACDC, patient=name), split="train")
    >>> cohort = writer.finish()
    >>> cohort.split_counts, cohort.read("bob").spacing_mm
    ({'train': 2}, (2.0, 2.0, 8.0))
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path, label_table: LabelTable, modality: str, overwrite: bool = False) -> None:
        if modality not in MODALITIES:
            raise InputError(f"modality {modality!r}: expected one of {', '.join(MODALITIES)}")
        self.folder, self.label_table, self.modality = Path(folder), label_table, modality
        self._journal = self.folder / "cases.jsonl"
        self._lines: dict[str, dict[str, Any]] = {}
        head = journal.head(label_table, modality)
        if overwrite:
            _remove_cohort(self.folder)
        if (self.folder / "dataset.json").exists():
            raise InputError(f"{self.folder} holds a finished cohort; choose another folder or pass --overwrite")
        if self._journal.exists():
            found, lines = journal.read(self._journal)
            if found != head:
                raise InputError(
                    f"{self.folder} holds a half-made cohort of another kind ({found}); now {head}. "
                    "Choose another folder or pass --overwrite."
                )
            self._lines = {line["case"]: line for line in lines if "patient" in line}
            return
        for name in ("imagesTr", "labelsTr", "cases.csv", "manifest.json"):
            if (self.folder / name).exists():
                raise InputError(f"{self.folder} holds {name}, which voxpair did not put there; choose another folder")
        for name in ("imagesTr", "labelsTr"):
            make_folder(self.folder / name)
        journal.start(self._journal, head)

    @classmethod
    def reopen(cls, folder: Path) -> CohortWriter:
        """Return a writer that adds cases to a finished cohort of voxpair's; until :meth:`finish` it is half-made."""
        folder = Path(folder)
        cohort, description = Cohort.open(folder), folder / "dataset.json"
        if not Cohort.is_ours(folder):
            raise InputError(f"{folder} is a dataset that voxpair did not make; it is not added to")
        provenance = cohort.manifest.get("cases", {})
        lines = [journal.line_of(record, provenance.get(record.name, {})) for record in cohort.records]
        journal.start(folder / "cases.jsonl", journal.head(cohort.label_table, cohort.modality), lines)
        description.unlink()
        return cls(folder, cohort.label_table, cohort.modality)

    def __len__(self) -> int:
        return len(self._lines)

    def has(self, name: str) -> bool:
        """True if the case was added completely, by this writer or an interrupted one before it."""
        return name in self._lines

    def add(self, case: Case, split: str | None = None) -> None:
        """Write one case; when this returns, it is on the disk.

        Raises:
            InputError: the case is there already, or has another label table.
            RunError: the disk is full or cannot be written.
        """
        if self.has(case.name):
            raise InputError(f"{self.folder} has a case {case.name!r} already; case names must be distinct")
        if case.label_table.to_mapping() != self.label_table.to_mapping():
            raise InputError(
                f"case {case.name}: its label table is {case.label_table.to_mapping()}, "
                f"the cohort's is {self.label_table.to_mapping()}"
            )
        reserved = [key for key in case.attributes if key in COLUMNS]
        if reserved:
            raise InputError(f"case {case.name}: attribute {reserved[0]!r} is the name of a fixed column of cases.csv")
        attributes = {key: "" if value is None else value for key, value in case.attributes.items()}
        image_file = image_path(self.folder, case.name)
        labels_file = labels_path(self.folder, case.name) if case.labels is not None else None
        record = CaseRecord(case.name, case.patient, case.source, split, attributes, image_file, labels_file)
        line = journal.line_of(record, case.provenance)
        try:  # before any file is written: what cannot be written down must not be half-added
            text = json.dumps(line, allow_nan=False, default=lambda value: value.tolist())  # NumPy's numbers and arrays
        except ValueError:
            raise InputError(f"case {case.name}: attributes and provenance must be finite, got {line}") from None
        # Announce the files first, so that an overwrite knows them even after a kill.
        journal.append(self._journal, json.dumps({"case": case.name}))
        volumes.write_image(image_file, case.image, case.affine)
        if labels_file is not None:
            volumes.write_labels(labels_file, case.labels, case.affine)
        journal.append(self._journal, text)
        self._lines[case.name] = json.loads(text)

    def finish(self, manifest: Mapping[str, Any] | None = None, notes: Sequence[str] = ()) -> Cohort:
        """Write the lists and declare the cohort complete.

        Args:
            manifest: facts about what made the cases, such as generator, weights digest, seed and, so that leakage
                can be found, ``training_patients``. Each case's provenance is added under ``cases``.
            notes: sentences that travel with the cohort in ``dataset.json``.
        """
        if not self._lines:
            raise InputError(f"no case was written to {self.folder}; a cohort needs at least one")
        _remove_temporary(self.folder)
        write_cases_csv(self.folder / "cases.csv", [journal.record_of(self.folder, line) for line in self._in_order()])
        provenance = {line["case"]: line["provenance"] for line in self._in_order() if line["provenance"]}
        if manifest is not None or provenance:
            write_json(self.folder / "manifest.json", {**(manifest or {}), "cases": provenance})
        sources = sorted({line["source"] for line in self._lines.values()})
        description = {
            "channel_names": {"0": self.modality},
            "labels": self.label_table.to_mapping(),
            "numTraining": len(self._lines),
            "file_ending": ".nii.gz",
            "voxpair": {
                "format": journal.FORMAT,
                "label_table": self.label_table.name,
                "colours": {s.name: s.colour for s in self.label_table.structures},
                "modality": self.modality,
                "source": sources[0] if len(sources) == 1 else "mixed",
                "notes": list(notes),
            },
        }
        write_json(self.folder / "dataset.json", description)
        self._journal.unlink()
        return Cohort.open(self.folder)

    def _in_order(self) -> list[dict[str, Any]]:
        return [self._lines[name] for name in sorted(self._lines)]


def _remove_cohort(folder: Path) -> None:
    """Remove what a CohortWriter made in ``folder``, finished or not: files that its own lists name, no others."""
    description, lines, table = folder / "dataset.json", folder / "cases.jsonl", folder / "cases.csv"
    names: set[str] = set()
    if description.exists():
        if not Cohort.is_ours(folder):
            raise InputError(f"{folder} is a dataset that voxpair did not make; it is not overwritten")
        names |= set(read_cases_csv(table)) if table.exists() else set()
    if lines.exists():
        names |= {line["case"] for line in journal.read(lines)[1]}
    elif not description.exists():
        return
    for name in sorted(names):
        image_path(folder, name).unlink(missing_ok=True)
        labels_path(folder, name).unlink(missing_ok=True)
    _remove_temporary(folder)
    for path in (folder / "imagesTr", folder / "labelsTr"):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    # What marks the folder as ours goes last: after a kill in between, the same call can go on.
    for path in (folder / "manifest.json", table, lines, description):
        path.unlink(missing_ok=True)


def _remove_temporary(folder: Path) -> None:
    """Remove what a killed writer left under the temporary names of ``core.run.atomic_path``."""
    for path in (*folder.glob("imagesTr/.*"), *folder.glob("labels*/.*")):
        if re.match(r"\.\d+-", path.name):
            path.unlink()
