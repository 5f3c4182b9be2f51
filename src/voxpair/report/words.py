"""Numbers and names as a reader expects them; every sentence and table of the page uses these.

Takes numbers and identifiers, gives text. A minus is a true minus sign, nothing reads as a negative zero or as a
p value of zero, and what is not known is a dash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Verdict:
    """An answer in words; ``tone`` colours its box, ``headline`` says the same without colour."""

    tone: Tone
    headline: str
    sentences: Sequence[str]


def protocol_name(name: str) -> str:
    """Return an identifier as words, the first letter a capital.

    >>> protocol_name("medical_diffusion")
    'Medical diffusion'
    """
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """Return a number with a true minus sign; a dash where there is none; never a negative zero.

    >>> number(-0.0004), number(0.5, 1, sign=True), number(-2.0, 1), number(None)
    ('0.000', '+0.5', '−2.0', '–')
    """
    if value is None:
        return "–"
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{digits}f}".replace("-", "−")


def significant(value: float | None) -> str:
    """Return a number of unknown size with three significant digits.

    >>> significant(1234.5), significant(0.012345), significant(-3), significant(2e-7), significant(None)
    ('1234', '0.0123', '−3', '2e−07', '–')
    """
    if value is None:
        return "–"
    return (f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}").replace("-", "−")


def points(value: float | None, *, sign: bool = False) -> str:
    """Return a Dice as points, hundredths of its range."""
    return number(None if value is None else 100 * value, 1, sign=sign)


def percent(share: float | None) -> str:
    """Return a share as a percentage.

    >>> percent(0.0512), percent(None)
    ('5.1 %', '–')
    """
    return "–" if share is None else f"{number(100 * share, 1)} %"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun.

    >>> counted(1, "seed"), counted(3, "seed"), counted(2, "copy", "copies")
    ('1 seed', '3 seeds', '2 copies')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def p_value(value: float | None) -> str:
    """Return a p value that never reads as zero.

    >>> p_value(0.03712), p_value(2e-7), p_value(None)
    ('0.0371', '< 0.0001', '–')
    """
    return "< 0.0001" if value is not None and value < 0.0001 else number(value, 4)


def duration(seconds: float) -> str:
    """Return a duration in the two units that matter.

    >>> duration(0.4), duration(75), duration(5000), duration(90000)
    ('0.4 s', '1 min 15 s', '1 h 23 min', '25 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours} h"
