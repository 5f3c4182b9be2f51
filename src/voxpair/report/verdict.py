"""The result in words, before any table: which protocol is better, by how much, and how sure that is.

Takes ``comparison.json`` and the summaries of the protocols; gives sentences. An interval that holds zero is never
called an improvement, a handful of patients decides nothing, and a single seed is said to be one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from voxpair.report.results import Evaluation
from voxpair.report.words import Tone, Verdict, counted, number, p_value, points, protocol_name

SIGNIFICANT = 0.05
FEWEST_PATIENTS = 6  # below, even if all patients agree, a two-sided signed-rank test cannot reach p < 0.05


def seeds_of(c: Mapping[str, Any]) -> str:
    """Return how many seeds stand behind a comparison, of each side where they differ."""
    if c["seeds_a"] == c["seeds_b"]:
        return counted(c["seeds_a"], "seed")
    return f"{c['seeds_a']} and {counted(c['seeds_b'], 'seed')}"


def pooled_words(evaluation: Evaluation) -> str:
    """Return what stands behind a protocol's means.

    >>> pooled_words(Evaluation({"cases": 4, "patients": 2, "seeds": 3}, seeds=3))
    '4 cases of 2 patients, 3 seeds'
    >>> pooled_words(Evaluation({"cases": 1, "patients": 1, "seeds": 1}, seeds=3))
    '1 case of 1 patient, 1 seed (the others of 3 are not pooled yet)'
    """
    summary = evaluation.summary
    cases, patients = counted(summary["cases"], "case"), counted(summary["patients"], "patient")
    waiting = f" (the others of {evaluation.seeds} are not pooled yet)" if evaluation.seeds > summary["seeds"] else ""
    return f"{cases} of {patients}, {counted(summary['seeds'], 'seed')}{waiting}"


def verdict(comparisons: Sequence[Mapping[str, Any]], evaluations: Mapping[str, Evaluation]) -> Verdict:
    """Word the primary comparison, the first one over all structures; or say what is there instead."""
    primary = next((c for c in comparisons if c["structure"] is None), None)
    if primary is not None:
        return _of_comparison(primary, evaluations)
    if not evaluations:
        return Verdict("open", "No result yet", ["No masks have been evaluated in this run."])
    means = ", ".join(f"{protocol_name(n)} {number(e.summary['dice']['mean'])}" for n, e in evaluations.items())
    sentence = f"Mean Dice: {means}. Nothing is said about which is better: they were not compared patient by patient."
    return Verdict("open", "Scores, but no comparison", [sentence, *_missed(evaluations)])


def _of_comparison(c: Mapping[str, Any], evaluations: Mapping[str, Evaluation]) -> Verdict:
    a, b = protocol_name(c["a"]), protocol_name(c["b"]).lower()
    tone, headline, conclusion = _judge(c, a, b)
    interval = "no interval" if c["low"] is None else f"[{points(c['low'])}, {points(c['high'])}]"
    seeds = seeds_of(c)
    sentences = [
        f"{a} {number(c['mean_a'])} against {number(c['mean_b'])} {b} in mean Dice, difference "
        f"{points(c['difference'], sign=True)} points {interval} over {counted(c['patients'], 'patient')} and {seeds}: "
        f"{conclusion}."
    ]
    if min(c["seeds_a"], c["seeds_b"]) == 1:
        sentences.append(
            "With one seed, the interval covers the choice of test patients only: another training of the same "
            "protocol may differ by as much. Repeat with more seeds before you rely on it."
        )
    else:
        sentences.append(
            f"Between seeds the mean varies with an SD of {points(c['sd_seeds_a'])} ({a.lower()}) and "
            f"{points(c['sd_seeds_b'])} points ({b})."
        )
    if c["smallest_detectable"] is not None and c["patients"] >= FEWEST_PATIENTS:
        smaller = "; a smaller one can neither be claimed nor excluded" if tone == "open" else ""
        sentences.append(
            f"This test set would have shown a difference of {points(c['smallest_detectable'])} points or more "
            f"(80 % power){smaller}."
        )
    return Verdict(tone, headline, sentences + _missed(evaluations))


def _judge(c: Mapping[str, Any], a: str, b: str) -> tuple[Tone, str, str]:
    low, high = c["low"], c["high"]
    chance = "the choice of patients" if min(c["seeds_a"], c["seeds_b"]) == 1 else "the choice of patients and seeds"
    if low is None or high is None or c["patients"] < FEWEST_PATIENTS:
        return "open", "Too few patients to decide", "an interval over so few patients promises more than it holds"
    apart = sign_of(c)
    if apart > 0:
        return "better", f"{a} is better than {b}", f"better, beyond what {chance} explains"
    if apart < 0:
        return "worse", f"{a} is worse than {b}", f"worse, beyond what {chance} explains"
    if low > 0 or high < 0:
        reason = f"the interval leaves zero out, but Wilcoxon's test (p = {p_value(c['p_value'])}) does not agree"
    else:
        reason = "not distinguishable from no difference"
    return "open", f"{a} and {b} cannot be told apart", reason


def sign_of(c: Mapping[str, Any]) -> int:
    """Return 1 where a is better, -1 where it is worse: the interval leaves zero out, and the test agrees; else 0.

    Either alone is too easily satisfied: the interval is short with few patients, the test takes seeds as given.

    >>> c = {"low": 0.001, "high": 0.02, "p_value": 0.03}
    >>> sign_of(c), sign_of(c | {"p_value": 0.08}), sign_of(c | {"low": None, "high": None, "p_value": None})
    (1, 0, 0)
    """
    if c["low"] is None or c["p_value"] is None or c["p_value"] >= SIGNIFICANT:
        return 0
    return 1 if c["low"] > 0 else -1 if c["high"] < 0 else 0


def _missed(evaluations: Mapping[str, Evaluation]) -> list[str]:
    sentences = []
    for name, evaluation in evaluations.items():
        counts = [s["counts"] for s in evaluation.summary["structures"].values()]
        missed, invented = (sum(c.get(status, 0) for c in counts) for status in ("pred_empty", "ref_empty"))
        parts = [f"missed {counted(missed, 'structure')}" if missed else ""]
        parts.append(f"invented {counted(invented, 'structure')}" if invented else "")
        if any(parts):
            what = " and ".join(filter(None, parts))
            sentences.append(f"{protocol_name(name)} {what} (summed over cases and seeds); each counts as Dice 0.")
        without = evaluation.summary.get("missing_predictions", [])
        if without:
            sentences.append(f"{protocol_name(name)} has no prediction for {', '.join(without)}.")
    return sentences
