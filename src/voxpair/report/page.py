"""Writes ``report.html``: one self-contained page about a run, verdict first, that needs no network.

All of it is readable without scripts but the 3D view (``viewer``), and a Content-Security-Policy lets no other run.

Takes a run folder with a result or more. Where a file is absent the page says so in a sentence. This is the contract:

    summary.json                              title, about, command, preset, seed, versions {name: version},
                                              held_out (the split that was scored), synthetic (number of pairs),
                                              protocols {name: what it is trained on}, settings {...},
                                              cohort {cases, labelled, patients, splits {name: cases}, modality,
                                                      label_table {structure: [value, "#rrggbb"]},
                                                      sizes and spacings (text with units),
                                                      attributes {name: {value: cases}}, notes [text]},
                                              experiments [folder] where a study's lie in folders of their own
    settings.yaml                             shown as it is; else the settings in summary.json
    timings.json                              {stage: seconds}, in order
    generator/<step>/metrics.jsonl            one record per line: update, loss, and score where it was validated
    generator/autoencoder/reconstruction.json dice {structure: Dice after encoding and decoding}, cases
    pretraining/metrics.jsonl
    segmenters/<protocol>/metrics.jsonl
    evaluation/<protocol>/masks.json          as ``evaluation.masks.summary`` writes it; protocols baseline,
                                              medical_diffusion, ours come first, others follow by name
    evaluation/<protocol>/<seed>/masks.json   further seeds: counted here
    evaluation/comparison.json                as ``evaluation.masks.comparison`` writes it; its summaries, pooled over
                                              seeds, take the place of those in masks.json, and the first comparison
                                              over all structures is the verdict
    pairs/pairs.json                          extractor {name, digest}, cohorts {synthetic {cases}, real {cases}},
                                              warnings [text], measures [``pairs.measures.Measure`` as a mapping]
    pairs/curves.json                         histograms {structure: {edges, real, synthetic}}, unit,
                                              noise_power {structure: {frequency_per_mm, real, synthetic}}
    audit/audit.json                          copies [{case, nearest, patient, score, threshold, detector}],
                                              synthetic, patients, patients_copied, share_of_patients_copied,
                                              expected_false_alarms, membership_auc, membership_interval [low, high],
                                              detectors {name: {threshold, false_alarm_rate, nearest_synthetic [],
                                              nearest_reference []}}, warnings [text],
                                              control {passed, planted, found, by_disguise {name: {planted, found}}}
    audit/copies.npz                          as previews, and <name>_nearest: the most similar real image
    study.json                                rows, as ``study_table`` writes them
    synthetic/selection.json                  drawn, accepted, rate, rules {rule: rejected},
                                              rejected [{index, reasons [text]}]
    previews/real.npz, synthetic.npz,         names, spacing (N, 3) mm, <name>_image (X, Y, Z) float32 in [0, 1],
    synthetic/rejected.npz                    <name>_labels uint8 class indices 0..K-1; RAS+ axes;
                                              intensity_range (2,) optional: the original units of 0 and 1
    previews/predictions.npz                  the same (labels: reference) and protocols, <name>_<protocol>; three
                                              cases are the last protocol's worst, median and best

All text from these files is escaped. Volumes are shown in radiological display (see ``figures``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from voxpair.core.run import write_text
from voxpair.report import audit, masks, quality, study, words
from voxpair.report.results import Results, read_results
from voxpair.report.sheets import copy_sheet, sheet
from voxpair.report.training import training_drawings
from voxpair.report.verdict import pooled_words, seeds_of, verdict
from voxpair.report.viewer import policy, viewer

CT_WINDOW_HU = (-150.0, 550.0)  # soft tissue, widened so that contrast-filled blood (300 to 500 HU) keeps its detail
PROTOCOLS = {  # Ikuta et al. 2024 and Hu et al. 2024, section 3.4
    "baseline": "from random weights, on real scans alone",
    "medical_diffusion": "encoder pretrained on images alone, then real scans alone",
    "ours": "encoder pretrained on images alone, then real and synthetic pairs",
}
_VALUES_SHOWN = 6
_REJECTED_SHOWN = 50
_TEMPLATES = Path(__file__).parent / "templates"
_FILTERS = {
    "number": words.number,
    "points": words.points,
    "percent": words.percent,
    "significant": words.significant,
    "p_value": words.p_value,
    "protocol": words.protocol_name,
    "duration": words.duration,
    "seeds": seeds_of,
    "pooled": pooled_words,
}


def write_report(run_folder: Path, *, ct_window_hu: tuple[float, float] = CT_WINDOW_HU) -> Path:
    """Write ``report.html`` into ``run_folder`` and return its path.

    Args:
        run_folder: laid out as this module says.
        ct_window_hu: HU shown as black and as white, for CT whose preview says what its 0 and 1 stand for.

    Raises:
        InputError: there is no such folder, it holds no result, or a file in it cannot be read.
    """
    results = read_results(run_folder)
    path = results.folder / "report.html"
    write_text(path, render(results, ct_window_hu))
    return path


def render(results: Results, ct_window_hu: tuple[float, float] = CT_WINDOW_HU) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    window = ct_window_hu if results.summary.get("cohort", {}).get("modality") == "CT" else None
    view = viewer(results.previews, results.structures, window)
    return environment.get_template("report.html").render(
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),  # ours, holds no user's text
        policy=Markup(view.policy if view else policy()),
        viewer=view,
        script=Markup(view.script) if view else None,  # ours too
        summary=results.summary,
        structures=results.structures,
        window=window,
        **_answers(results),
        **_segmentation(results),
        **_pairs(results),
        **_pictures(results, window),
        cohort=cohort_facts(results.summary),
        training=training_drawings(results),
        study=study.tables(results.study),
        study_drawing=study.drawing(results.study),
        reconstruction=results.reconstruction,
        timings=results.timings,
        settings=results.settings,
    )


def _answers(results: Results) -> dict[str, Any]:
    return {
        "verdict": verdict(results.comparisons, results.evaluations)
        if results.evaluations or not results.study
        else study.verdict(results.study),
        "answers": [
            ("Are the pairs real enough?", "#pairs", quality.realism(results.pairs)),
            ("Do image and labels agree?", "#pairs", quality.agreement(results.pairs)),
            ("Is anyone copied?", "#audit", audit.answer(results.audit)),
        ],
    }


def _segmentation(results: Results) -> dict[str, Any]:
    described = PROTOCOLS | results.summary.get("protocols", {})
    return {
        "descriptions": {name: described[name] for name in results.evaluations if name in described},
        "protocols": list(results.evaluations),
        "tables": masks.tables(results),
        "evaluations": results.evaluations,
        "comparisons": [c for c in results.comparisons if c["structure"] is None],
        "dice_drawing": masks.dice_drawing(results),
        "difference_drawing": masks.difference_drawing(results),
    }


def _pairs(results: Results) -> dict[str, Any]:
    return {
        "pairs": results.pairs,
        "measures": quality.tables(results.pairs),
        "curves": quality.curve_drawings(results.pair_curves),
        "audit": results.audit,
        "control": audit.control_rows(results.audit),
        "similarity": audit.similarity_drawing(results.audit),
        "selection": results.selection,
        "rejected_shown": _REJECTED_SHOWN,
    }


def _pictures(results: Results, window: tuple[float, float] | None) -> dict[str, Any]:
    colours = [structure.colour for structure in results.structures]
    copies = results.copies
    return {
        "sheets": {name: sheet(preview, colours, window) for name, preview in results.previews.items()},
        "copies": copy_sheet(copies, audit.titles(results.audit), colours, window) if copies else None,
    }


def cohort_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (term, description) pairs of what is known about the cohort, real and synthetic.

    >>> cohort = {"cases": 5, "splits": {"train": 3, "test": 2}, "attributes": {"cases": {"no": 5}}}
    >>> cohort_facts({"synthetic": 8, "cohort": cohort})
    [('Cases', '5'), ('Split', '3 train · 2 test'), ('Synthetic', '8 pairs')]
    """
    cohort = summary.get("cohort", {})
    facts = [(term, cohort.get(term.lower())) for term in ("Cases", "Patients", "Labelled")]
    facts.append(("Split", _counts(cohort.get("splits"))))
    facts += [("Modality", cohort.get("modality")), ("Grid", cohort.get("sizes")), ("Voxel", cohort.get("spacings"))]
    said = {term for term, _ in facts}
    for name, values in cohort.get("attributes", {}).items():
        if (term := words.protocol_name(name)) not in said:  # a phantom's modality is a column of its table too
            facts.append((term, _counts(values) if len(values) <= _VALUES_SHOWN else f"{len(values)} values"))
    if "synthetic" in summary:
        facts.append(("Synthetic", f"{summary['synthetic']} pairs"))
    return [(term, str(value)) for term, value in facts if value is not None]


def _counts(counts: Mapping[str, int] | None) -> str | None:
    return " · ".join(f"{count} {name or 'unnamed'}" for name, count in counts.items()) if counts else None
