"""Labelling: which value stored in somebody's label files means which structure of a table.

In: a table in a file, or names and values. Out: a :class:`Labelling` that turns stored labels (of any integer type,
any value) into uint8 values of its table, or says which value it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voxpair.cohorts.volumes import count_values
from voxpair.core.errors import InputError
from voxpair.core.labels import LABEL_TABLES, LabelTable
from voxpair.core.settings import read_yaml


@dataclass(frozen=True)
class Labelling:
    """A label table, and which stored value becomes which value of it."""

    table: LabelTable
    values: Mapping[int, int]

    def apply(self, labels: np.ndarray, where: str) -> np.ndarray:
        """Return uint8 labels; an unknown value is an error that names ``where``, value and number of voxels."""
        counts = count_values(labels)
        for value, voxels in counts.items():
            if value not in self.values:
                raise InputError(
                    f"{where}: label value {value} ({voxels} voxels) is not in label table {self.table.name!r}, which "
                    f"knows {sorted(self.values)}. Give a table that has it, or an alias for it."
                )
        found = np.array(sorted(counts))
        return np.array([self.values[v] for v in found.tolist()], np.uint8)[np.searchsorted(found, labels)]


def of_table(table: LabelTable) -> Labelling:
    """Return the labelling in which every stored value means itself."""
    return Labelling(table, {value: value for value in (0, *table.values)})


def read_label_table(path: Path) -> Labelling:
    """Read a table from YAML or JSON: ``{name: value}``, or ``{labels: {name: value}, aliases: {value: value}}``."""
    if not path.exists():
        raise InputError(f"no label table {str(path)!r}: neither built in ({', '.join(LABEL_TABLES)}) nor a file")
    content = read_yaml(path)  # JSON is YAML
    nested = isinstance(content.get("labels"), dict)
    labels, aliases = (content["labels"], content.get("aliases") or {}) if nested else (content, {})
    unknown = sorted(set(content) - {"labels", "aliases"}) if nested else []
    if unknown:
        raise InputError(f"{path}: unknown key {unknown[0]!r}; expected labels and aliases")
    try:
        labels = {str(name): int(value) for name, value in labels.items()}
        aliases = {int(stored): int(meant) for stored, meant in aliases.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: expected 'name: value' with whole numbers ({error})") from None
    return number(labels, path.stem, aliases)


def number(labels: Mapping[str, int], name: str, aliases: Mapping[int, int]) -> Labelling:
    """Make a labelling of stored values; where one exceeds 255, structures are numbered 1, 2, ... by value.

    >>> labelling = number({"MYO": 205, "LA": 420}, "mmwhs", aliases={421: 420})
    >>> labelling.table.to_mapping(), dict(labelling.values)
    ({'background': 0, 'MYO': 1, 'LA': 2}, {0: 0, 205: 1, 420: 2, 421: 2})
    """
    stored = sorted({int(v) for v in labels.values()} - {0})
    large = bool(stored) and stored[-1] > 255
    values = {0: 0, **{v: i if large else v for i, v in enumerate(stored, 1)}}
    table = LabelTable.from_mapping(name, {label: values[v] for label, v in labels.items()})
    for alias, meant in aliases.items():
        if meant not in values:
            raise InputError(f"label table {name!r}: alias {alias} stands for {meant}, which is not in the table")
    return Labelling(table, {**values, **{alias: values[meant] for alias, meant in aliases.items()}})
