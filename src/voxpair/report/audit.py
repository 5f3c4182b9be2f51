"""The audit in words: is anyone copied, and could the audit have noticed?

Takes ``audit.json``; gives an answer, the table of planted copies, and a drawing. An audit that misses copies which
were planted on purpose proves nothing, whatever else it found, and a number of findings that false alarms explain is
not called a number of copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxpair.report import charts
from voxpair.report.words import Verdict, counted, number, percent, protocol_name, significant

Audit = Mapping[str, Any]


def answer(audit: Audit | None) -> Verdict:
    """Answer whether anyone is copied."""
    if audit is None:
        words = "Nothing in this run says that a synthetic case is not a copy of a patient (audit/audit.json)."
        return Verdict("open", "Not audited", [words])
    control, copies, made = audit["control"], audit["copies"], audit["synthetic"]
    planted = f"{control['found']} of {counted(control['planted'], 'copy', 'copies')} planted on purpose"
    cases = counted(made, "synthetic case")
    if not control["passed"]:
        found = f"It flags {len(copies)} of {cases}, but" if copies else "It flags nothing, and"
        reason = f"It found only {planted}, so it would miss copies of patients. {found} that number means nothing."
        return Verdict("worse", "The audit proves nothing", [reason])
    found = f"The audit noticed {planted}."
    membership, told = _membership(audit)
    if not copies:
        sentence = f"None of {cases} is nearer to a training case than the thresholds allow. {found}"
        tone, headline = ("open", "No copy found, yet training patients show") if told else ("better", "No copy found")
        return Verdict(tone, headline, [sentence, *membership])
    expected = audit.get("expected_false_alarms")
    by_chance = "" if expected is None else f"; {number(expected, 1)} cases would be flagged by chance"
    sentence = (
        f"Patients concerned: {audit['patients_copied']} of {audit['patients']} in the training set "
        f"({percent(audit['share_of_patients_copied'])}){by_chance}. {found}"
    )
    if expected is not None and len(copies) <= expected:
        headline = f"{len(copies)} of {cases} flagged, as many as false alarms explain"
        return Verdict("open", headline, [sentence, "Look at these cases before the cohort is shared.", *membership])
    headline = f"{len(copies)} of {cases} {'looks' if len(copies) == 1 else 'look'} like {_a_copy(len(copies))}"
    return Verdict("worse", headline, [sentence, "Leave these cases out before the cohort is shared.", *membership])


def _a_copy(count: int) -> str:
    return "a copy" if count == 1 else "copies"


def _membership(audit: Audit) -> tuple[list[str], bool]:
    """Return what the cohort tells of who was in the training set, and whether that is more than nothing."""
    area, interval = audit.get("membership_auc"), audit.get("membership_interval")
    if area is None or not interval or None in interval:
        return [], False
    low, high = interval
    told = low > 0.5
    words = "can be told" if told else "were not told"
    values = f"AUC {number(area, 2)} [{number(low, 2)}, {number(high, 2)}], 0.5 is chance"
    return [f"From the cohort, training patients {words} from others ({values})."], told


def control_rows(audit: Audit | None) -> list[tuple[str, int, int]]:
    """Return (disguise, planted, found) of the copies planted on purpose."""
    if audit is None:
        return []
    return [
        (protocol_name(name), counts["planted"], counts["found"])
        for name, counts in audit["control"].get("by_disguise", {}).items()
    ]


def titles(audit: Audit | None) -> dict[str, str]:
    """Return the title of each flagged case's picture."""
    copies = [] if audit is None else audit["copies"]
    return {c["case"]: f"{c['case']} like {c['nearest']}: {c['detector']} {significant(c['score'])}" for c in copies}


def similarity_drawing(audit: Audit | None) -> charts.Drawing | None:
    """Draw how near synthetic and held-out real cases come to training cases."""
    detectors = {} if audit is None else audit["detectors"]
    panels = {
        name: (d["nearest_reference"], d["nearest_synthetic"], d["threshold"])
        for name, d in detectors.items()
        if d["nearest_reference"] and d["nearest_synthetic"]
    }
    if not panels:
        return None
    words = "; ".join(
        f"{name}: highest of a synthetic case {significant(max(made))}, of a held-out real case "
        f"{significant(max(held_out))}, threshold {significant(threshold)}"
        for name, (held_out, made, threshold) in panels.items()
    )
    return charts.drawing(charts.similarities(panels), f"Similarity to the nearest training case. {words}.")
