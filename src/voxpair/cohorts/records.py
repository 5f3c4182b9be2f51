"""The lists of a cohort folder: what ``dataset.json``, ``cases.csv`` and the folders themselves say, and nothing else.

In: a folder. Out: a label table, a modality and one :class:`CaseRecord` per case; no volume is read. What the lists
and the files contradict each other in is returned as a list of problems, so that the data doctor can show all of them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from voxpair.cohorts import volumes
from voxpair.core.case import Source
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable, Structure
from voxpair.core.run import read_json, write_text

COLUMNS = ("case", "patient", "source", "split", "labelled")
SOURCES = ("real", "phantom", "synthetic", "prediction")


@dataclass(frozen=True)
class CaseRecord:
    """One line of ``cases.csv`` with the paths of its files; nothing of the volumes is read.

    ``split`` is None until the cohort is split; ``labels_path`` is None where nobody has annotated.
    """

    name: str
    patient: str
    source: Source
    split: str | None
    attributes: Mapping[str, str | float]
    image_path: Path
    labels_path: Path | None


def read_description(folder: Path) -> tuple[LabelTable, str, tuple[str, ...]]:
    """Return label table, modality and notes from ``dataset.json``, voxpair's own or any of nnU-Net v2's form."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    path = folder / "dataset.json"
    if not path.exists():
        if (folder / "cases.jsonl").exists():
            raise InputError(f"the cohort {folder} is only half-made; run the command that makes it again to finish it")
        raise InputError(f"{folder} is no cohort: it has no dataset.json. voxpair import makes a cohort of any scans.")
    content = read_json(path)
    if not isinstance(content, dict) or "channel_names" not in content or not isinstance(content.get("labels"), dict):
        raise InputError(f"{path} is not of nnU-Net v2's form (channel_names, labels); try voxpair import {folder}")
    channels, labels, block = content["channel_names"], content["labels"], content.get("voxpair", {})
    if len(channels) != 1:
        second = dict(channels).get("1", list(channels)[-1])
        raise InputError(f"{path} has {len(channels)} channels; voxpair reads one, so drop channel {second!r}")
    for name, value in labels.items():
        if isinstance(value, bool) or not isinstance(value, int) or name == "ignore":
            raise InputError(f"{path}: label {name!r} = {value!r}; expected one integer per structure (no regions)")
    table = LabelTable.from_mapping(block.get("label_table", folder.name), labels)
    colours = block.get("colours", {})
    structures = tuple(Structure(s.value, s.name, colours.get(s.name, s.colour)) for s in table.structures)
    # nnU-Net's own rule: a channel called CT holds HU, every other channel arbitrary units
    modality = block.get("modality") or ("CT" if str(next(iter(channels.values()))).upper() == "CT" else "MRI")
    return LabelTable(table.name, structures), modality, tuple(block.get("notes", ()))


def list_records(folder: Path) -> tuple[list[CaseRecord], list[tuple[str, str]]]:
    """List the cases of a folder, and every (case, problem) in what it lists and holds; reads no volume."""
    ending = read_json(folder / "dataset.json").get("file_ending", ".nii.gz")
    if ending not in volumes.SUFFIXES:
        return [], [("", f"{folder / 'dataset.json'}: file_ending {ending!r}; expected {', '.join(volumes.SUFFIXES)}")]
    images, labels = _names(folder / "imagesTr", ending), _names(folder / "labelsTr", ending)
    cases = {name.removesuffix("_0000") for name in images if name.endswith("_0000")}
    problems = [
        (name, f"{folder / 'imagesTr' / (name + ending)}: expected a name such as CASE_0000{ending} (one channel)")
        for name in sorted(images)
        if not name.endswith("_0000")
    ]
    orphans = labels - cases
    problems += [(n, f"{folder / 'labelsTr' / (n + ending)} has no image in imagesTr") for n in sorted(orphans)]
    table = folder / "cases.csv"
    rows = read_cases_csv(table) if table.exists() else {name: {} for name in sorted(cases)}
    problems += [
        (name, f"{folder / 'imagesTr' / (name + '_0000' + ending)} is not listed in {table}; add a line or remove it")
        for name in sorted(cases - set(rows))
    ]
    records = []
    for name, row in rows.items():
        if name not in cases:
            problems.append((name, f"{table} lists case {name}, but its image {name}_0000{ending} is not in imagesTr"))
            continue
        if row.get("labelled") == "yes" and name not in labels:
            problems.append((name, f"{table} says that case {name} is labelled, but labelsTr has no {name}{ending}"))
            continue
        if (row.get("source") or "real") not in SOURCES:
            known = ", ".join(SOURCES)
            problems.append((name, f"{table}: case {name} has source {row['source']!r}; expected one of {known}"))
            continue
        records.append(_record(folder, name, row, ending, name in labels))
    return records, problems


def read_cases_csv(path: Path) -> dict[str, dict[str, str]]:
    """Read ``cases.csv``: rows by case name, as text. Semicolons and a byte-order mark (Excel) are understood."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header and "," not in header else ","
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    if "case" not in (reader.fieldnames or ()):
        raise InputError(f"{path}: expected a column 'case', got the columns {reader.fieldnames}")
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        if None in row or None in row.values():
            raise InputError(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames)} fields, got others")
        if row["case"] in rows:
            raise InputError(f"{path}, line {reader.line_num}: case {row['case']!r} is listed twice")
        rows[row["case"]] = row
    return rows


def write_cases_csv(path: Path, records: Sequence[CaseRecord]) -> None:
    """Write ``cases.csv`` atomically; attributes become columns in order of first appearance."""
    attributes = list(dict.fromkeys(key for record in records for key in record.attributes))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*COLUMNS, *attributes))
    for r in records:
        labelled = "no" if r.labels_path is None else "yes"
        values = (r.attributes.get(key, "") for key in attributes)
        writer.writerow((r.name, r.patient, r.source, r.split or "", labelled, *values))
    write_text(path, text.getvalue())


def parse_attribute(text: str) -> str | float:
    """Return a number where the text is one.

    >>> parse_attribute("62"), parse_attribute("F"), parse_attribute("1_2"), parse_attribute("nan")
    (62.0, 'F', '1_2', 'nan')
    """
    try:
        number = float(text)
    except ValueError:
        return text
    return number if isfinite(number) and "_" not in text else text


def image_path(folder: Path, name: str, ending: str = ".nii.gz") -> Path:
    return folder / "imagesTr" / f"{name}_0000{ending}"


def labels_path(folder: Path, name: str, ending: str = ".nii.gz") -> Path:
    return folder / "labelsTr" / f"{name}{ending}"


def _record(folder: Path, name: str, row: Mapping[str, str], ending: str, labelled: bool) -> CaseRecord:
    return CaseRecord(
        name=name,
        patient=row.get("patient") or name,
        source=row.get("source") or "real",
        split=row.get("split") or None,
        attributes={key: parse_attribute(text) for key, text in row.items() if key not in COLUMNS and text != ""},
        image_path=image_path(folder, name, ending),
        labels_path=labels_path(folder, name, ending) if labelled else None,
    )


def _names(folder: Path, ending: str) -> set[str]:
    """Names of volumes without their ending; hidden files (macOS's ``._`` copies, temporary files) are not volumes."""
    if not folder.is_dir():
        return set()
    return {p.name.removesuffix(ending) for p in folder.iterdir() if p.name.endswith(ending) and p.name[0] != "."}
