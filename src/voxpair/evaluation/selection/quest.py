"""Draw synthetic cases until enough are accepted, and stop when that is hopeless.

In: a function that draws case *i*, a function that judges it, how many accepted cases are wanted. Out: a stream of
(index, case, judgement), and :func:`summary` of the judgements for a file.

Indices are walked in order, 0, 1, 2, …, so that the accepted cases depend on the draws alone, and an interrupted quest
goes on from the judgements it has made.

**Hopeless.** After ``PATIENCE`` draws or more the acceptance rate has an upper 95 % bound (Clopper & Pearson 1934,
one-sided): p such that a rate of p would give so few accepted cases with a probability of 5 %. If even p accepts too
few of the draws that are left, the quest ends with an error that says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scipy.stats import beta

from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.evaluation.selection.selector import Judgement

PATIENCE = 20


def draw_until(
    draw: Callable[[int], Case],
    judge: Callable[[Case], Judgement],
    wanted: int,
    *,
    attempts_limit: int | None = None,
    earlier: Sequence[Judgement] = (),
) -> Iterator[tuple[int, Case, Judgement]]:
    """Draw and judge cases in order until ``wanted`` are accepted; what is yielded is the caller's to keep.

    Args:
        draw: index -> case.
        attempts_limit: draws in all, earlier ones too; 10 times ``wanted`` by default.
        earlier: judgements of the indices 0, 1, …, already drawn; the walk goes on after them.

    Raises:
        InputError: the numbers make no sense.
        RunError: ``wanted`` cannot be reached within the limit.
    """
    limit = 10 * wanted if attempts_limit is None else attempts_limit
    if wanted < 1 or limit < wanted:
        raise InputError(
            f"at least one accepted case must be wanted and as many draws allowed, got {wanted} and {limit}"
        )
    judgements = list(earlier)
    while sum(judgement.accepted for judgement in judgements) < wanted:
        _check_hope(judgements, wanted, limit)
        index = len(judgements)
        case = draw(index)
        judgements.append(judge(case))
        yield index, case, judgements[-1]


def rate_bound(accepted: int, drawn: int) -> float:
    """Return the upper 95 % bound of an acceptance rate.

    >>> round(rate_bound(0, 29), 3), rate_bound(5, 5)
    (0.098, 1.0)
    """
    return 1.0 if accepted == drawn else float(beta.ppf(0.95, accepted + 1, drawn - accepted))


def summary(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return what ``selection.json`` holds; ``rules`` counts the cases that each rule rejects, alone or with others."""
    accepted = sum(judgement.accepted for judgement in judgements)
    return {
        "drawn": len(judgements),
        "accepted": accepted,
        "rate": accepted / len(judgements) if judgements else None,
        "rules": dict(_rejections(judgements).most_common()),
        "rejected": [
            {"index": index, "reasons": list(judgement.reasons)}
            for index, judgement in enumerate(judgements)
            if not judgement.accepted
        ],
    }


def _rejections(judgements: Sequence[Judgement]) -> Counter[str]:
    return Counter(rule for judgement in judgements for rule in sorted(set(judgement.rules)))


def _check_hope(judgements: Sequence[Judgement], wanted: int, limit: int) -> None:
    """Raise if ``wanted`` cannot be reached within ``limit``."""
    drawn, accepted = len(judgements), sum(judgement.accepted for judgement in judgements)
    left = limit - drawn
    if left > 0 and (drawn < PATIENCE or accepted + rate_bound(accepted, drawn) * left >= wanted):
        return
    (rule, times), *_ = _rejections(judgements).most_common(1)
    example = next(reason for found in judgements for reason, cause in zip(found.reasons, found.rules) if cause == rule)
    raise RunError(
        f"{accepted} of {drawn} synthetic cases were accepted ({accepted / drawn:.0%}), so {wanted} cannot be reached "
        f"within {limit} draws. Rule '{rule}' rejected {times}, for example: {example}. Those accepted are kept; fit "
        "the generator for longer, ask for fewer cases, raise the limit, or take the rule out of the selection."
    )
