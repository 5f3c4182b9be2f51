"""What an anatomy must obey, as data, and what real cases teach about it.

In: :class:`~voxpair.evaluation.anatomy.facts.AnatomyFacts`. Out: whether a rule holds, is broken, or cannot be
judged because the border of the image hides what would decide it.

    Contact   the share of a structure's surface that faces certain others lies in [least, most]: "LAA touches LA" has a
              least share, "LV lies apart from RV" a most, "LV is enclosed by MYO, LA, AO" a high least
    Order     the centroid of one structure lies farther right, front or up than that of another

``RULES`` holds what anatomy says of the built-in label tables. :func:`learn_contacts` and :func:`learn_orders` find
what all real cases share; orders among all structures are the situs, and a mirrored heart has most of them reversed
along an axis. A structure that is absent breaks no rule here: presence is judged by itself.

**A cut structure.** Faces on the border of the image have an unknown neighbour. A contact rule is broken only if it
would be broken whatever these faces touch, and holds if it holds for the faces in view; between the two it is not
judged. An order that looks reversed is not judged where the border cuts one of the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from voxpair.core.labels import LABEL_TABLES, LabelTable
from voxpair.evaluation.anatomy.facts import AnatomyFacts

State = Literal["holds", "broken", "not judged"]
AXES = ("right", "front", "up")
AGREEMENT = 0.95
"""Share of real cases that must obey a rule before others are judged by it."""
CLEAR = 2.5
"""Standard deviations that the mean order of two structures must lie from zero: by chance 1 case in 160 reverses it."""
FEWEST_TO_LEARN = 8


@dataclass(frozen=True)
class Finding:
    """What became of a rule in one case; ``reason`` is a sentence if it is broken."""

    state: State
    reason: str = ""


@dataclass(frozen=True)
class Contact:
    """The share of the surface of ``subject`` that faces ``others`` lies between ``least`` and ``most``."""

    subject: str
    others: tuple[str, ...]
    least: float = 0.0
    most: float = 1.0

    def __str__(self) -> str:
        verb = "lies apart from" if self.most < 1 else "is enclosed by" if self.least > 0.5 else "touches"
        return f"{self.subject} {verb} {', '.join(self.others)}"

    def share(self, facts: AnatomyFacts) -> float | None:
        """Return the share of the surface in view; None without a surface in view."""
        area, _, surface = self._areas(facts)
        return area / surface if surface else None

    def judge(self, facts: AnatomyFacts) -> Finding:
        area, hidden, surface = self._areas(facts)
        if not surface or not any(facts.present(name) for name in self.others):
            return Finding("not judged")
        if self.least <= area / surface <= self.most:
            return Finding("holds")
        fewest, greatest = area / (surface + hidden), (area + hidden) / (surface + hidden)
        if fewest <= self.most and greatest >= self.least:
            return Finding("not judged")
        wanted = f"at most {self.most:.1%}" if self.most < 1 else f"at least {self.least:.1%}"
        return Finding(
            "broken",
            f"{self.subject} has {area / surface:.1%} of its surface on {', '.join(self.others)}; {wanted} is expected",
        )

    def _areas(self, facts: AnatomyFacts) -> tuple[float, float, float]:
        """Return the areas that face ``others``, the border of the image, and anything in view."""
        names = facts.label_table.names
        index = 1 + names.index(self.subject)
        faces = facts.contact_mm2[index]
        return (
            float(sum(faces[1 + names.index(name)] for name in self.others)),
            float(facts.border_mm2[index]),
            float(faces.sum()),
        )


@dataclass(frozen=True)
class Order:
    """The centroid of ``first`` lies farther along ``axis`` (RAS) than that of ``second``."""

    first: str
    second: str
    axis: Literal["right", "front", "up"]

    def __str__(self) -> str:
        where = {"right": "to the right of", "front": "in front of", "up": "above"}[self.axis]
        return f"{self.first} lies {where} {self.second}"

    def judge(self, facts: AnatomyFacts) -> Finding:
        ahead = _ahead_mm(facts, self.first, self.second)
        if ahead is None:
            return Finding("not judged")
        distance_mm = ahead[AXES.index(self.axis)]
        if distance_mm > 0:
            return Finding("holds")
        if facts.is_cut(self.first) or facts.is_cut(self.second):
            return Finding("not judged")
        where = {"right": "left of", "front": "behind", "up": "below"}[self.axis]
        return Finding("broken", f"the centre of {self.first} lies {-distance_mm:.1f} mm {where} that of {self.second}")


Rule = Contact | Order


def _touches(subject: str, other: str) -> Contact:
    return Contact(subject, (other,), least=0.005)


def _apart(subject: str, other: str, most: float = 0.01) -> Contact:
    return Contact(subject, (other,), most=most)


# The shares leave room: real cases of ACDC (99) and phantom hearts obey every rule in at least 95 of 100 cases.
RULES: Mapping[str, tuple[Rule, ...]] = {
    "cardiac8": (
        Contact("LV", ("MYO", "LA", "AO"), least=0.85),
        _apart("LV", "RV"),
        _touches("LAA", "LA"),
        _touches("AO", "LV"),
        _touches("PA", "RV"),
        _touches("LA", "LV"),
        _touches("RA", "RV"),
    ),
    "acdc": (Contact("LV", ("MYO",), least=0.8), _apart("LV", "RV", most=0.03), _touches("RV", "MYO")),
    "hippocampus": (_touches("Anterior", "Posterior"), Order("Anterior", "Posterior", "front")),
    "brain4": (
        _touches("cortex", "CSF"),
        _touches("cortex", "white_matter"),
        _touches("deep_grey", "white_matter"),
        _apart("deep_grey", "cortex", most=0.03),
    ),
}


def known_rules(table: LabelTable) -> tuple[Rule, ...]:
    """Return the rules of the built-in table with the same structures, whatever the name; () if there is none."""
    for name, rules in RULES.items():
        if set(LABEL_TABLES[name].names) == set(table.names):
            return rules
    return ()


def rules_for(real: Sequence[AnatomyFacts]) -> tuple[Rule, ...]:
    """Return the known rules of the real cases' label table, or what their contacts teach."""
    return (known_rules(real[0].label_table) or learn_contacts(real)) if real else ()


def learn_contacts(real: Sequence[AnatomyFacts]) -> tuple[Contact, ...]:
    """Return "a touches b" for the pairs that touch in every real case with both, and not by a hair.

    The smallest contact seen must be a tenth of the usual one: a pair that barely touches in some real case will not
    touch in the next. The rule asks for a tenth of the smallest share seen. Fewer than ``FEWEST_TO_LEARN`` cases teach
    nothing.
    """
    if not real:
        return ()
    learnt = []
    for subject, other in combinations(real[0].label_table.names, 2):
        rule = Contact(subject, (other,))
        shares = [rule.share(facts) for facts in real if facts.present(subject) and facts.present(other)]
        seen = np.array([share for share in shares if share is not None])
        if len(seen) >= FEWEST_TO_LEARN and seen.min() > 0.1 * np.median(seen):
            learnt.append(Contact(subject, (other,), least=float(seen.min()) / 10))
    return tuple(learnt)


def learn_orders(real: Sequence[AnatomyFacts]) -> tuple[Order, ...]:
    """Return the orders, along each axis and for each pair of structures, on which real cases clearly agree."""
    learnt = []
    for a, b in combinations(real[0].label_table.names, 2) if real else ():
        apart = np.array([ahead for facts in real if (ahead := _ahead_mm(facts, a, b)) is not None])
        if len(apart) < FEWEST_TO_LEARN:
            continue
        for axis, mean, spread in zip(AXES, apart.mean(axis=0), apart.std(axis=0, ddof=1)):
            if abs(mean) > CLEAR * spread:
                learnt.append(Order(a, b, axis) if mean > 0 else Order(b, a, axis))
    return tuple(learnt)


def kept_by(real: Sequence[AnatomyFacts], rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules that real cases themselves obey: one that they break says nothing about a synthetic case."""
    kept = []
    for rule in rules:
        states = [rule.judge(facts).state for facts in real]
        judged = len(states) - states.count("not judged")
        if judged and states.count("holds") >= AGREEMENT * judged:
            kept.append(rule)
    return tuple(kept)


def reversed_shares(facts: AnatomyFacts, orders: Sequence[Order]) -> dict[str, tuple[int, int]]:
    """Return per axis how many of the ``orders`` that can be seen are reversed, and how many can be seen.

    Here a cut structure counts: a piece of it out of view does not turn a whole heart around.
    """
    found = {}
    for axis in AXES:
        ahead = [_ahead_mm(facts, order.first, order.second) for order in orders if order.axis == axis]
        seen = [distance[AXES.index(axis)] for distance in ahead if distance is not None]
        found[axis] = sum(distance <= 0 for distance in seen), len(seen)
    return found


def mirrored_axes(facts: AnatomyFacts, orders: Sequence[Order]) -> tuple[str, ...]:
    """Return the axes along which more than half of the orders are reversed."""
    return tuple(axis for axis, (wrong, seen) in reversed_shares(facts, orders).items() if 2 * wrong > seen)


def _ahead_mm(facts: AnatomyFacts, first: str, second: str) -> np.ndarray | None:
    """Return how far ``first`` lies right, in front and above ``second`` (centroids, mm); None if one is absent."""
    one, other = (facts.structures[name].centroid_mm for name in (first, second))
    return None if one is None or other is None else np.subtract(one, other)
