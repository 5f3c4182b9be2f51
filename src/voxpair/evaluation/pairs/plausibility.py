"""Is the anatomy of synthetic label maps plausible? Every number beside the same number of real cases.

Takes :func:`describe` of each case (:mod:`voxpair.evaluation.anatomy.facts`), gives measures.

    name                about         meaning
    third_class_rate    case, struct. voxels that a blurred border decoded to a third class, of all boundary voxels
    rules_broken        case          anatomical rules broken, of those that could be judged
    rules_not_judged    case          rules whose answer the border of the image hides, or whose structure is absent
    rule_broken         rule          share of the cases judged that break it; ``structure`` is the rule in words
    order_reversed      case          learnt orders of centroids that are reversed, of all that are seen
    mirrored            axis or all   share of cases with more than half of the learnt orders along an axis reversed
    presence            structure     share of cases that have it
    pieces, euler       structure     connected pieces; Euler number; of the cases that have it
    stray_share         structure     share of its volume in stray pieces, which hang together with nothing
    holes_ml            structure     background that it encloses
    volume_ml           structure     mean volume
    volume_ks           structure     largest gap of the two distributions of volumes (Kolmogorov-Smirnov)
    volume_emd_ml       structure     mean shift that turns one distribution into the other (earth mover's distance)

Rules and orders are those of :mod:`voxpair.evaluation.anatomy.rules`; what is learnt is learnt from the real cases that
are given, so their own value, the floor, is what a cohort looks like that teaches itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from scipy.stats import ks_2samp, wasserstein_distance

from voxpair.evaluation.anatomy.facts import AnatomyFacts, describe
from voxpair.evaluation.anatomy.rules import (
    AXES,
    FEWEST_TO_LEARN,
    Order,
    Rule,
    learn_orders,
    mirrored_axes,
    reversed_shares,
    rules_for,
)
from voxpair.evaluation.pairs.measures import Better, Measure, compare_means, compare_sets

__all__ = ["AnatomyFacts", "compare", "describe"]

_GROUP = "plausibility"
_LIKE_REAL = ("rules_not_judged", "presence", "pieces", "euler", "volume_ml")  # of all others, less is better
_VIEWS = {"right": "left-right", "front": "back-front", "up": "down-up"}

About = tuple[str, str | None, str | None]
"""Name, structure and view of a measure."""


def compare(synthetic: Sequence[AnatomyFacts], real: Sequence[AnatomyFacts], seed: int) -> list[Measure]:
    """Return every measure of the module's table."""
    rules, orders = rules_for(real), learn_orders(real)
    made, there = ([_numbers(facts, rules, orders) for facts in group] for group in (synthetic, real))
    patients = tuple([facts.patient for facts in group] for group in (synthetic, real))
    mean = partial(compare_means, _GROUP, patients=patients, seed=seed)
    found = []
    for about in there[0] if there else ():
        name, structure, view = about
        better: Better = "floor" if name in _LIKE_REAL else "lower"
        unit = "mL" if name.endswith("_ml") else ""
        values = ([_or_nan(numbers[about]) for numbers in group] for group in (made, there))
        measure = mean(name, *values, better=better, structure=structure, view=view, unit=unit)
        if name in ("order_reversed", "mirrored") and not orders:
            note = f"no order to compare with: the {len(real)} real cases ({FEWEST_TO_LEARN} are needed) agree on none"
            measure = replace(measure, note=note)
        found.append(measure)
    for structure in real[0].structures if real else ():
        found += _volume_distributions(structure, synthetic, real, seed)
    return found


def _numbers(facts: AnatomyFacts, rules: Sequence[Rule], orders: Sequence[Order]) -> Mapping[About, float | None]:
    """Return all numbers of one case; None is what it does not have."""
    states = {rule: rule.judge(facts).state for rule in rules}
    broken = {rule: None if state == "not judged" else float(state == "broken") for rule, state in states.items()}
    judged = [value for value in broken.values() if value is not None]
    wrong, seen = np.sum(list(reversed_shares(facts, orders).values()), axis=0)
    mirrored = mirrored_axes(facts, orders)
    numbers: dict[About, float | None] = {
        ("third_class_rate", None, None): facts.third_class_rate(),
        ("rules_broken", None, None): sum(judged) / len(judged) if judged else None,
        ("rules_not_judged", None, None): len(rules) - len(judged),
        ("order_reversed", None, None): wrong / seen if seen else None,
        ("mirrored", None, None): bool(mirrored) if seen else None,
    }
    numbers |= {("rule_broken", str(rule), None): value for rule, value in broken.items()}
    for axis in AXES:
        if any(order.axis == axis for order in orders):
            numbers["mirrored", None, _VIEWS[axis]] = axis in mirrored
    for name, found in facts.structures.items():
        there = found.pieces > 0
        numbers["third_class_rate", name, None] = facts.third_class_rate(name)
        numbers["presence", name, None] = there
        numbers["pieces", name, None] = found.pieces if there else None
        numbers["euler", name, None] = found.euler if there else None
        numbers["stray_share", name, None] = found.stray_share
        numbers["holes_ml", name, None] = found.holes_ml if there else None
        numbers["volume_ml", name, None] = found.volume_ml
    return numbers


def _volume_distributions(
    structure: str, synthetic: Sequence[AnatomyFacts], real: Sequence[AnatomyFacts], seed: int
) -> list[Measure]:
    """Return both distances between volumes; an absent structure has 0 mL."""
    made, there = ([facts.structures[structure].volume_ml for facts in group] for group in (synthetic, real))
    patients = [facts.patient for facts in real]
    return [
        compare_sets(_GROUP, name, distance, made, there, patients=patients, structure=structure, unit=unit, seed=seed)
        for name, distance, unit in (
            ("volume_ks", _kolmogorov_smirnov, ""),
            ("volume_emd_ml", wasserstein_distance, "mL"),
        )
    ]


def _kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> float:
    return float(ks_2samp(first, second, method="asymp").statistic)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else float(value)
