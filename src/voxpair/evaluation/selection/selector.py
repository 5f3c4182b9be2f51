"""Which synthetic cases are good enough to learn from? Accepted or rejected, with reasons in words.

In: real training cases, once (:meth:`Selector.fit`); then one synthetic case after another (:meth:`Selector.judge`).
Out: a :class:`Judgement` per case. :mod:`voxpair.evaluation.selection.quest` draws until enough are accepted.

    rule        rejects a case when
    volume      a structure that real cases have is missing, or its volume or that of all together is out of range (on a
                logarithmic scale)
    topology    an anatomical rule is broken, or a structure has more than in real cases in stray pieces or in holes, or
                more of the boundary was decoded to it as a third class
    situs       most structures stand the other way round along an axis: the anatomy is mirrored
    intensity   the median level of a structure is out of range; in HU for CT, elsewhere as its distance from the median
                of the image in units of the image's range from 5 to 95 %, since MRI has no scale of its own
    agreement   a segmenter that has learnt from real cases alone disagrees with the labels (mean Dice over structures)
    copy        it is more like a training case than held-out real cases are

Ranges are those of :mod:`voxpair.evaluation.selection.ranges`. Rules that real cases do not obey themselves are not
used and are named in ``Selector.left_out``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import Field

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.settings import Settings
from voxpair.evaluation.anatomy.facts import AnatomyFacts, describe
from voxpair.evaluation.anatomy.rules import (
    AGREEMENT,
    FEWEST_TO_LEARN,
    Order,
    Rule,
    kept_by,
    learn_orders,
    reversed_shares,
    rules_for,
)
from voxpair.evaluation.selection.ranges import KINDS, Range

RuleName = Literal["volume", "topology", "situs", "intensity", "agreement", "copy"]
Reason = tuple[RuleName, str]
Key = tuple[str, str]
"""Structure and kind of a number."""
WHOLE = "the whole anatomy"
RULE_NAMES: tuple[RuleName, ...] = get_args(RuleName)
_WAYS = {"right": "from left to right", "front": "from back to front", "up": "from below to above"}


class SelectionSettings(Settings):
    """What a synthetic case must pass.

    Attributes:
        rules: names of the rules that are applied; the module says what each does.
        margin: widens the ranges of real cases, see :mod:`voxpair.evaluation.selection.ranges`.
        agreement_margin: how far below the real cases' 5th percentile the mean Dice of rule "agreement" may lie.
    """

    rules: tuple[RuleName, ...] = RULE_NAMES
    margin: float = Field(0.25, ge=0)
    agreement_margin: float = Field(0.05, ge=0)


@dataclass(frozen=True)
class Match:
    """The training case that a synthetic case is most like; a ``score`` above ``threshold`` makes it a copy."""

    nearest: str
    score: float
    threshold: float


@dataclass(frozen=True)
class Judgement:
    """What became of one case: it is accepted if there is no reason against it.

    Args:
        reasons: a sentence per rejection.
        rules: the rule behind each reason, in the same order.
        numbers: what was measured, for a table; JSON can hold it.
    """

    reasons: tuple[str, ...]
    rules: tuple[RuleName, ...]
    numbers: Mapping[str, float]

    @property
    def accepted(self) -> bool:
        return not self.reasons


@dataclass(frozen=True)
class Selector:
    """What real cases teach; made by :meth:`fit`.

    Args:
        ranges: of each number that enough real cases have.
        always, never: structures that (nearly) all, or none, of the real cases have.
        agreement: least mean Dice; None if the rule "agreement" is not applied.
        left_out: rules in words that real cases themselves break.
    """

    settings: SelectionSettings
    label_table: LabelTable
    modality: str
    ranges: Mapping[Key, Range]
    always: tuple[str, ...]
    never: tuple[str, ...]
    rules: tuple[Rule, ...]
    orders: tuple[Order, ...]
    agreement: float | None
    left_out: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        real: Iterable[Case],
        settings: SelectionSettings,
        *,
        modality: str,
        agreement_real: Sequence[float] = (),
    ) -> Selector:
        """Learn from annotated real training cases, read one at a time.

        Args:
            modality: "CT" for images in HU.
            agreement_real: mean Dice (:func:`mean_dice`) of the same segmenter on real cases that it has not learnt
                from; needed for the rule "agreement".

        Raises:
            InputError: too few cases, other label tables among them, or no ``agreement_real`` though it is needed.
        """
        facts, numbers = [], []
        for case in real:
            facts.append(describe(case))
            numbers.append(_numbers(case, facts[-1], modality))
            _check_table(case, facts[0].label_table)
        if len(facts) < FEWEST_TO_LEARN:
            raise InputError(f"selection learns from at least {FEWEST_TO_LEARN} annotated real cases, got {len(facts)}")
        agreement = None
        if "agreement" in settings.rules:
            if not len(agreement_real):
                raise InputError(
                    "selection by agreement needs the segmenter's mean Dice on held-out real cases; "
                    "hold some out, or take 'agreement' out of the rules"
                )
            agreement = float(np.quantile(agreement_real, 0.05)) - settings.agreement_margin
        have = {name: sum(found.present(name) for found in facts) / len(facts) for name in facts[0].structures}
        wanted = rules_for(facts)
        rules = kept_by(facts, wanted)
        return cls(
            settings=settings,
            label_table=facts[0].label_table,
            modality=modality,
            ranges=_learn_ranges(numbers, settings.margin),
            always=tuple(name for name, share in have.items() if share >= AGREEMENT),
            never=tuple(name for name, share in have.items() if share == 0),
            rules=rules,
            orders=learn_orders(facts),
            agreement=agreement,
            left_out=tuple(str(rule) for rule in wanted if rule not in rules),
        )

    def judge(self, case: Case, predicted_labels: np.ndarray | None = None, copy: Match | None = None) -> Judgement:
        """Judge one synthetic case.

        Args:
            predicted_labels: what a segmenter that has learnt from real cases alone makes of the image, (X, Y, Z).
            copy: its likeness to training cases.

        Raises:
            InputError: another label table, or what an applied rule needs is not given.
        """
        _check_table(case, self.label_table)
        facts = describe(case)
        numbers = _numbers(case, facts, self.modality)
        found = [*self._presence(facts), *self._out_of_range(numbers), *self._topology(facts), *self._situs(facts)]
        if self.modality != "CT" and not _scale(case.image):
            found.append(("intensity", "the image is of one grey nearly everywhere, so no structure can be seen"))
        written = {f"{'all' if name == WHOLE else name}_{kind}": value for (name, kind), value in numbers.items()}
        if "agreement" in self.settings.rules:
            written["agreement"] = dice = _agreement(case, predicted_labels)
            if dice < self.agreement:
                text = f"a segmenter's labels agree with the case's own by a mean Dice of {dice:.2f}"
                found.append(("agreement", f"{text}; at least {self.agreement:.2f} is accepted"))
        if "copy" in self.settings.rules:
            if copy is None:
                raise InputError(f"case {case.name}: rule 'copy' needs its match; give one, or take the rule out")
            written["copy_score"] = float(copy.score)
            if copy.score > copy.threshold:
                text = f"it is like the training case {copy.nearest} by {copy.score:.2f}"
                found.append(("copy", f"{text}; at most {copy.threshold:.2f} is accepted"))
        found = [(rule, reason) for rule, reason in found if rule in self.settings.rules]
        return Judgement(tuple(reason for _, reason in found), tuple(rule for rule, _ in found), written)

    def _presence(self, facts: AnatomyFacts) -> Iterator[Reason]:
        for name in facts.structures:
            if name in self.always and not facts.present(name):
                yield "volume", f"{name} is missing; real cases have it"
            if name in self.never and facts.present(name):
                yield "volume", f"{name} is there; no real case has it"

    def _out_of_range(self, numbers: Mapping[Key, float]) -> Iterator[Reason]:
        for key, value in numbers.items():
            known = self.ranges.get(key)
            if known and not known.low <= value <= known.high:
                yield known.kind.rule, known.reason(key[0], value)

    def _topology(self, facts: AnatomyFacts) -> Iterator[Reason]:
        for rule in self.rules:
            finding = rule.judge(facts)
            if finding.state == "broken":
                yield "topology", finding.reason

    def _situs(self, facts: AnatomyFacts) -> Iterator[Reason]:
        for axis, (wrong, seen) in reversed_shares(facts, self.orders).items():
            if 2 * wrong > seen:
                text = f"{wrong} of {seen} pairs of structures stand the other way round than in real cases"
                yield "situs", f"mirrored {_WAYS[axis]}: {text}"


def mean_dice(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean Dice over the structures that either label map has; 1 if both are empty.

    >>> mean_dice(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]))
    0.6666666666666666
    """
    values = sorted({*np.unique(predicted).tolist(), *np.unique(labels).tolist()} - {0})
    scores = [
        2
        * np.count_nonzero((predicted == value) & (labels == value))
        / (np.count_nonzero(predicted == value) + np.count_nonzero(labels == value))
        for value in values
    ]
    return float(np.mean(scores)) if scores else 1.0


def _numbers(case: Case, facts: AnatomyFacts, modality: str) -> dict[Key, float]:
    """Return the numbers that have a range, by (structure, kind)."""
    found: dict[Key, float] = {}
    scale = _scale(case.image)
    middle = float(np.median(case.image))
    for structure in case.label_table.structures:
        name, known = structure.name, facts.structures[structure.name]
        if not known.pieces:
            continue
        found[name, "ml"] = known.volume_ml
        found[name, "stray_share"] = known.stray_share
        found[name, "holes_ml"] = known.holes_ml
        if facts.boundary_voxels:
            found[name, "third_class_rate"] = facts.third_class_rate(name)
        median = float(np.median(case.image[case.labels == structure.value]))
        if modality == "CT":
            found[name, "hu"] = median
        elif scale:
            found[name, "level"] = (median - middle) / scale
    if found:
        found[WHOLE, "ml"] = sum(known.volume_ml for known in facts.structures.values())
    return found


def _agreement(case: Case, predicted: np.ndarray | None) -> float:
    if predicted is None or predicted.shape != case.image.shape:
        got = "none" if predicted is None else f"shape {predicted.shape}"
        raise InputError(
            f"case {case.name}: rule 'agreement' needs predicted labels of shape {case.image.shape}, got {got}; "
            "predict them, or take the rule out"
        )
    return mean_dice(predicted, case.labels)


def _scale(image: np.ndarray) -> float:
    low, high = np.quantile(image, [0.05, 0.95])
    return float(high - low)


def _learn_ranges(numbers: Sequence[Mapping[Key, float]], margin: float) -> dict[Key, Range]:
    """Return a range for every number that enough real cases have."""
    keys = dict.fromkeys(key for found in numbers for key in found)
    values = {key: [found[key] for found in numbers if key in found] for key in keys}
    return {
        key: Range.learn(KINDS[key[1]], seen, margin) for key, seen in values.items() if len(seen) >= FEWEST_TO_LEARN
    }


def _check_table(case: Case, table: LabelTable) -> None:
    if case.label_table.to_mapping() != table.to_mapping():
        raise InputError(
            f"case {case.name} has the labels {case.label_table.to_mapping()}, the other cases {table.to_mapping()}; "
            "selection compares cases of one label table"
        )
