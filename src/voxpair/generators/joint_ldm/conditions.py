"""Conditions: what a generator may be asked for, as a vector.

Takes columns of ``cases.csv`` and structure volumes; gives a vector per case in which all zeros mean "whatever".

    entry         example                 in the vector
    category      sex = F                 one place per value that the training set has: 1 at the value, 0 elsewhere
    number        age = 61                z-score, and 1 for "known"
    volume:NAME   volume:LAA = 8.0        z-score of the logarithm of the volume in mL, and 1 for "known"

During the fit entries are hidden at random, so that one network answers with and without them (classifier-free
guidance, Ho and Salimans 2022). Asking for volumes from the tails gives cases that the training set has few of
(arXiv:2411.01351 does so for brain ventricles).

Shapes: B batch, D length of the vector.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from voxpair.core.errors import InputError
from voxpair.core.settings import Settings

VOLUME = "volume:"


class ConditionSettings(Settings):
    """What the generator is told about each case.

    Attributes:
        columns: columns of ``cases.csv``, and ``volume:NAME`` for structures; none makes an unconditional generator.
        drop: probability, in the fit, of hiding all of a case's entries, and then of each entry.
    """

    columns: tuple[str, ...] = ()
    drop: float = Field(0.1, ge=0, lt=1)


@dataclass(frozen=True)
class Entry:
    """One condition. Categories have ``values`` and their ``counts``; numbers and volumes ``mean`` and ``deviation``.

    Vocabularies written by earlier versions have no counts.
    """

    name: str
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def length(self) -> int:
        return len(self.values) or 2

    def encode(self, value: Any) -> list[float]:
        """Return this entry's part of the vector; all zeros where ``value`` is missing.

        Raises:
            InputError: the value is not of this entry's kind.
        """
        if is_missing(value):
            return [0.0] * self.length
        if self.values:
            if str(value) not in self.values:
                raise InputError(f"condition {self.name}={value}: the training cases have {', '.join(self.values)}")
            return [float(str(value) == known) for known in self.values]
        number = as_number(value)
        if number is None:
            raise InputError(f"condition {self.name}={value}: expected a number")
        if self.name.startswith(VOLUME):
            if number <= 0:
                raise InputError(f"condition {self.name}={value}: expected a volume in mL above 0")
            number = math.log(number)
        return [(number - self.mean) / self.deviation, 1.0]


@dataclass(frozen=True)
class Conditions:
    """The fitted vocabulary.

    >>> known = Conditions.fit(["sex", "age"], [{"sex": "F", "age": 50}, {"sex": "M", "age": 70}, {"sex": "M"}])
    >>> known.encode({"sex": "F", "age": 70}).tolist(), known.encode({}).tolist()
    ([1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    """

    entries: tuple[Entry, ...] = ()

    @classmethod
    def fit(cls, columns: Sequence[str], cases: Sequence[Mapping[str, Any]]) -> Conditions:
        """Learn values, means and deviations; a column that no case has a value for is left out.

        Args:
            cases: per training case its attributes and its volumes in mL (``volume:NAME``); 0 mL counts as missing.
        """
        entries = []
        for column in columns:
            values = [case[column] for case in cases if column in case and not is_missing(case[column])]
            numbers = [as_number(value) for value in values]
            if column.startswith(VOLUME):
                numbers = [math.log(n) for n in numbers if n]
            if not numbers:
                continue
            if None in numbers:
                counts = Counter(str(value) for value in values)
                entries.append(Entry(column, tuple(sorted(counts)), tuple(counts[value] for value in sorted(counts))))
            else:
                data = torch.tensor(numbers, dtype=torch.float64)
                deviation = float(data.std(correction=0)) or 1.0
                entries.append(Entry(column, mean=float(data.mean()), deviation=deviation))
        return cls(tuple(entries))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    @property
    def length(self) -> int:
        """D."""
        return sum(entry.length for entry in self.entries)

    def encode(self, condition: Mapping[str, Any]) -> Tensor:
        """Return the vector (D,) of what is asked for; what is not mentioned stays open.

        Raises:
            InputError: a name or value that the training set does not have; the message lists those it has.
        """
        for name in condition:
            if name not in self.names:
                known = ", ".join(self.names) or "none: it was fitted without conditions"
                raise InputError(f"condition {name!r} is not known to this generator; known are {known}")
        parts = [entry.encode(condition.get(entry.name)) for entry in self.entries]
        return torch.tensor([value for part in parts for value in part], dtype=torch.float32)

    def encode_known(self, case: Mapping[str, Any]) -> Tensor:
        """Return the vector of a case that has other columns as well; 0 mL counts as missing."""
        known = {name: case.get(name) for name in self.names}
        return self.encode({name: value for name, value in known.items() if not _is_no_volume(name, value)})

    def is_asked(self, vector: Tensor) -> Tensor:
        """Return, for each place of a vector (D,), whether its entry is known.

        >>> known = Conditions.fit(["sex", "age"], [{"sex": "F", "age": 50}, {"sex": "M", "age": 70}])
        >>> known.is_asked(known.encode({"sex": "F"})).tolist()
        [True, True, False, False]
        """
        parts = vector.split([entry.length for entry in self.entries])
        return torch.cat([vector.new_zeros(0, dtype=torch.bool), *(part.any().expand(len(part)) for part in parts)])

    def draw(self, condition: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return ``condition`` with a value for every category left open, as often as the training set has it.

        Each category is drawn by itself; numbers stay open, and so do categories without counts.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = dict(condition)
        for entry in self.entries:
            if entry.counts:
                position = int(torch.multinomial(torch.tensor(entry.counts).float(), 1, generator=generator))
                if is_missing(drawn.get(entry.name)):
                    drawn[entry.name] = entry.values[position]
        return drawn

    def hide(self, vectors: Tensor, drop: float) -> Tensor:
        """Return (B, D) vectors with entries zeroed at random: with probability ``drop`` all, else each."""
        if not self.entries or drop == 0:
            return vectors
        batch = len(vectors)
        keep = torch.rand(batch, len(self.entries), device=vectors.device) >= drop
        keep &= torch.rand(batch, 1, device=vectors.device) >= drop
        lengths = torch.tensor([entry.length for entry in self.entries], device=vectors.device)
        return vectors * keep.repeat_interleave(lengths, 1)

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {"name": e.name, "values": list(e.values), "counts": list(e.counts)}
            if e.values
            else {"name": e.name, "mean": e.mean, "deviation": e.deviation}
            for e in self.entries
        ]

    @classmethod
    def from_json(cls, entries: Sequence[Mapping[str, Any]]) -> Conditions:
        lists = ("values", "counts")
        return cls(tuple(Entry(**{**e, **{key: tuple(e.get(key, ())) for key in lists}}) for e in entries))


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def as_number(value: Any) -> float | None:
    """Return a finite number, or None for anything else; True and False are categories, not numbers."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _is_no_volume(name: str, value: Any) -> bool:
    return name.startswith(VOLUME) and value == 0
