"""How far may a number of a synthetic case lie from what real cases show?

In: the same number of N real cases. Out: a :class:`Range`, which says in words why a value is out of it.

    low, high = smallest - w, largest + w        w = margin (1 + FEW / N) (largest - smallest) + slack

Outliers count, since a rare state such as a scan without contrast is a state. Few cases show little of a range, so it
is widened the more the fewer they are. Volumes are taken as logarithms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

FEW = 16


@dataclass(frozen=True)
class Kind:
    """A kind of number that has a range: the rule it belongs to, how its range is learnt, and how it is said.

    ``slack`` widens the range in any case; it is a share of the value if ``logarithmic``. Of an ``at_most`` number,
    little is never wrong.
    """

    rule: Literal["volume", "topology", "intensity"]
    says: str
    shown: str
    slack: float
    logarithmic: bool = False
    at_most: bool = False


KINDS: Mapping[str, Kind] = {
    "ml": Kind("volume", "{name} has {value}", "{:.1f} mL", 0.1, logarithmic=True),
    "stray_share": Kind("topology", "{name} has {value} of its volume in stray pieces", "{:.1%}", 0.02, at_most=True),
    "holes_ml": Kind("topology", "{name} encloses {value} of background", "{:.2f} mL", 0.1, at_most=True),
    "third_class_rate": Kind(
        "topology", "{name} takes {value} of the boundary as a third class", "{:.1%}", 0.005, at_most=True
    ),
    "hu": Kind("intensity", "{name} has a median of {value}", "{:.0f} HU", 10.0),
    "level": Kind("intensity", "{name} has a median level of {value}", "{:.2f}", 0.05),
}


@dataclass(frozen=True)
class Range:
    """What is accepted of one number (``low`` to ``high``), and what real cases show."""

    kind: Kind
    low: float
    high: float
    real_low: float
    real_high: float

    @classmethod
    def learn(cls, kind: Kind, values: Sequence[float], margin: float) -> Range:
        """Return the range of the module's formula.

        >>> found = Range.learn(KINDS["holes_ml"], [0.0, 1.0] * 8, margin=0.25)
        >>> found.low, found.high, found.real_high
        (0.0, 1.6, 1.0)
        """
        found = np.log(values) if kind.logarithmic else np.asarray(values, float)
        low, high = found.min(), found.max()
        wider = margin * (1 + FEW / len(found)) * (high - low) + kind.slack
        ends = np.array([low - wider, high + wider])
        low, high = np.exp(ends) if kind.logarithmic else ends
        return cls(kind, 0.0 if kind.at_most else float(low), float(high), float(min(values)), float(max(values)))

    def reason(self, name: str, value: float) -> str:
        """Return in a sentence that ``value`` of the structure ``name`` is out of range."""
        show = self.kind.shown.format
        said = self.kind.says.format(name=name, value=show(value))
        if self.kind.at_most:
            return f"{said}; at most {show(self.high)} is accepted (real cases have up to {show(self.real_high)})"
        accepted, real = (
            f"{show(a)} to {show(b)}" for a, b in ((self.low, self.high), (self.real_low, self.real_high))
        )
        return f"{said}; accepted is {accepted} (real cases have {real})"
