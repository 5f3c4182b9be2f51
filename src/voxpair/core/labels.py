"""Label tables: which integer means which structure, and in which colour it is shown.

A table is data. ``cardiac8`` comes first: values 1 to 8 in the order of the public
STACOM-2025 cardiac CT set (1 MYO, 2 LA, 3 LV, 4 RA, 5 RV, 6 AO, 7 PA, 8 LAA), so that
public labels can be used unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from voxpair.core.errors import InputError

# Colours for tables that bring none: distinct in hue and lightness (after Tol's "bright" and "vibrant" schemes).
PALETTE = ("#ee6677", "#4477aa", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#bbbbbb", "#009988", "#cc3311")


@dataclass(frozen=True)
class Structure:
    """One annotated structure: its integer ``value`` (1..255), its ``name`` and its ``colour`` as ``#rrggbb``."""

    value: int
    name: str
    colour: str


@dataclass(frozen=True)
class LabelTable:
    """The structures of a cohort in increasing order of value; 0 is background and not listed.

    >>> CARDIAC8.names[:3], CARDIAC8.value_of("LAA"), CARDIAC8.classes
    (('MYO', 'LA', 'LV'), 8, 9)
    """

    name: str
    structures: tuple[Structure, ...]

    def __post_init__(self) -> None:
        values = [s.value for s in self.structures]
        if values != sorted(set(values)) or (values and not 1 <= values[0] <= values[-1] <= 255):
            raise InputError(f"label table {self.name!r}: values must be distinct, increasing, 1 to 255, got {values}")
        if len({s.name for s in self.structures}) != len(values):
            raise InputError(f"label table {self.name!r}: structure names must be distinct")

    @classmethod
    def from_mapping(cls, name: str, labels: Mapping[str, int]) -> LabelTable:
        """Build a table from nnU-Net's ``{"background": 0, "LV": 3, ...}``."""
        pairs = sorted((int(value), str(label)) for label, value in labels.items() if int(value) != 0)
        known = {s.name: s.colour for table in LABEL_TABLES.values() for s in table.structures}
        return cls(
            name,
            tuple(
                Structure(value, label, known.get(label, PALETTE[i % len(PALETTE)]))
                for i, (value, label) in enumerate(pairs)
            ),
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LabelTable:
        """Read what :meth:`to_json` gave."""
        return cls(content["name"], tuple(Structure(**structure) for structure in content["structures"]))

    def to_json(self) -> dict[str, Any]:
        """Return all of the table, colours included, as JSON can hold it."""
        return asdict(self)

    def to_mapping(self) -> dict[str, int]:
        """Return nnU-Net's ``labels`` entry, background first."""
        return {"background": 0, **{s.name: s.value for s in self.structures}}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.structures)

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(s.value for s in self.structures)

    @property
    def classes(self) -> int:
        """Number of classes K, background included."""
        return len(self.structures) + 1

    def value_of(self, name: str) -> int:
        for structure in self.structures:
            if structure.name == name:
                return structure.value
        raise InputError(f"no structure {name!r} in label table {self.name!r}; it has {', '.join(self.names)}")

    def check(self, labels: np.ndarray, where: str) -> None:
        """Raise if ``labels`` holds a value that is neither 0 nor in this table; ``where`` names the file or case."""
        found, counts = np.unique(labels, return_counts=True)
        for value, count in zip(found.tolist(), counts.tolist()):
            if value != 0 and value not in self.values:
                raise InputError(
                    f"{where}: label value {value} ({count} voxels) is not in label table {self.name!r}, "
                    f"which has {self.to_mapping()}. Correct the file or give the right table."
                )

    def to_classes(self, labels: np.ndarray) -> np.ndarray:
        """Return consecutive class indices 0..K-1 (uint8) for label values; inverse of :meth:`to_values`."""
        table = np.zeros(256, np.uint8)
        table[list(self.values)] = np.arange(1, self.classes)
        return table[labels]

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Return label values (uint8) for class indices 0..K-1."""
        return np.array((0, *self.values), np.uint8)[classes]


def _table(name: str, **colours: str) -> LabelTable:
    return LabelTable(name, tuple(Structure(i, label, colour) for i, (label, colour) in enumerate(colours.items(), 1)))


CARDIAC8 = _table(
    "cardiac8",
    MYO="#bbbbbb",
    LA="#4477aa",
    LV="#ee6677",
    RA="#66ccee",
    RV="#228833",
    AO="#ccbb44",
    PA="#aa3377",
    LAA="#ee7733",
)
HIPPOCAMPUS = _table("hippocampus", Anterior="#ee6677", Posterior="#4477aa")
ACDC = _table("acdc", RV="#228833", MYO="#bbbbbb", LV="#ee6677")
BRAIN4 = _table("brain4", CSF="#66ccee", cortex="#bbbbbb", white_matter="#ccbb44", deep_grey="#aa3377")
THORAX7 = _table(
    "thorax7",
    left_lung="#66ccee",
    right_lung="#4477aa",
    spinal_cord="#ccbb44",
    oesophagus="#ee7733",
    heart="#ee6677",
    trachea="#228833",
    body="#bbbbbb",
)

LABEL_TABLES: dict[str, LabelTable] = {table.name: table for table in (CARDIAC8, HIPPOCAMPUS, ACDC, BRAIN4, THORAX7)}


def label_table(name: str) -> LabelTable:
    """Return a built-in table by name."""
    if name not in LABEL_TABLES:
        raise InputError(f"no label table {name!r}; there are {', '.join(LABEL_TABLES)}")
    return LABEL_TABLES[name]
