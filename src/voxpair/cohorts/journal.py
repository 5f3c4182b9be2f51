"""The journal of a cohort in the making: ``cases.jsonl``, one line per case that is completely on the disk.

The first line says what the cohort is to become, and marks the folder as voxpair's. A line with nothing but the name of
a case says that its files are about to be written: they may be there, but are not to be trusted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from voxpair.cohorts.records import CaseRecord, image_path, labels_path
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import write_text

FORMAT = 1


def head(label_table: LabelTable, modality: str) -> dict[str, Any]:
    """Return the first line."""
    return {"voxpair": FORMAT, "labels": label_table.to_mapping(), "modality": modality}


def line_of(record: CaseRecord, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a complete case; inverse of :func:`record_of`."""
    return {
        "case": record.name,
        "patient": record.patient,
        "source": record.source,
        "split": record.split,
        "labelled": record.labels_path is not None,
        "attributes": dict(record.attributes),
        "provenance": dict(provenance),
    }


def record_of(folder: Path, line: Mapping[str, Any]) -> CaseRecord:
    return CaseRecord(
        line["case"],
        line["patient"],
        line["source"],
        line["split"],
        line["attributes"],
        image_path(folder, line["case"]),
        labels_path(folder, line["case"]) if line["labelled"] else None,
    )


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return head and lines; a last line that a kill cut short is removed, so that the next one starts afresh."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        write_text(path, whole.decode())
    try:
        head, *lines = map(json.loads, whole.decode().splitlines())
    except ValueError as error:
        raise InputError(f"{path} is not a journal of voxpair ({error}); choose another folder") from None
    return head, lines


def start(path: Path, first: Mapping[str, Any], lines: Iterable[Mapping[str, Any]] = ()) -> None:
    """Write a new journal."""
    write_text(path, "".join(json.dumps(line) + "\n" for line in (first, *lines)))


def append(path: Path, text: str) -> None:
    """Add one line of JSON; when this returns, it is on the disk."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}. The cases before are kept.") from None
