"""The tables of docs/results.md, made from the JSON files beside this script.

python benchmarks/tables.py        writes docs/results.md; tests/docs/test_results.py holds it to the files
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from voxpair.study_table import Row, as_markdown

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
NAMES = {"baseline": "Baseline", "medical_diffusion": "Medical Diffusion", "ours": "Ours"}
GENERATORS = {"medgen3d": "MedGen3D", "domain_randomisation": "domain randomisation"}

HEAD = """# Results

Every number below is made from a JSON file under `benchmarks/` by `python benchmarks/tables.py`; the file holds the
command, the commit, the machine, the seeds and all settings. All protocols of a table had equal numbers of updates
and were judged on the same held-out cases, which stopped no fit and chose no weights. Differences are paired over
patients, with 95 % bootstrap intervals over patients and seeds; p is Wilcoxon's over patients, seeds averaged, and
takes the seeds as given, so it may be small where the interval holds 0. One exception to "held out": the learning rate
and the numbers of updates of the demo's segmenters and pretraining were chosen by looking at Baseline and Medical
Diffusion on the demo's own test hearts.

The commit in a file is that of the moment its numbers were collected. The three hippocampus runs are of one commit;
the one with 16 labelled cases was stopped once, at 1100 of its denoiser's 1200 updates, and went on from there. Their
differences were computed again later (`compared` in the files), since intervals now draw seeds as well as patients.

The study with MedGen3D is of earlier hearts, whose aorta was labelled in front alone, and of the demo before CT had its
curve and the demo its present budgets; its intervals are over patients alone. It begins from the generator and the
first eight pairs of the timed fit; it was stopped after two of its three seeds and its table collected by hand. The
hippocampus run with 48 was paused and shared its core at times, which changes no number. Textures of reconstructions
were measured later than the rest, at the commit that the file names.
The hippocampus runs are of denoisers that learnt from batches of eight, 1200 updates; the preset has 5000 of two now,
more than before because of a ladder of pairs that was judged on these held-out cases (`benchmarks/hypotheses/`).
The pairs of the hippocampus runs were drawn from pure noise in Euler steps; the default now follows the linear denoiser
and begins at a draw of a Gaussian, as in the table of the hearts. The hearts' denoiser learnt for 1100 updates; the
demo has 800 since, because it took more than its 15 minutes on a slow day. Costs at the end are of the commits named
in their files.

A phantom shows that a method works as built; it says nothing about clinical validity.
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return docs/results.md."""
    parts = [HEAD]
    for title, folder in (("Hippocampus MRI (real)", "hippocampus"), ("Phantom hearts", "phantom")):
        for path in sorted((HERE / folder).glob("*.json"), key=_by_number):
            if "protocols" in json.loads(path.read_text(encoding="utf-8")):
                parts.append(protocols(title, path))
    parts += [study(path) for path in sorted((HERE / "study").glob("*.json"))]
    worths = sorted((HERE / "evaluation").glob("worth-*.json"), key=_by_number)
    if worths:
        parts.append(worth(worths))
    parts += [first_experiment(path) for path in sorted((HERE / "medgen3d").glob("e1-*.json"))]
    costs = [cost(path) for path in sorted((HERE / "speed").glob("*.json")) if path.stem != "profile"]
    if costs:
        parts.append("## What whole commands cost\n\n" + "\n".join(costs) + "\n")
    if (HERE / "speed/profile.json").exists():
        parts.append(where_time_goes(HERE / "speed/profile.json"))
    return "\n".join(parts)


def protocols(title: str, path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    updates = ", ".join(f"{name} {count}" for name, count in content["updates"].items())
    structures = list(next(iter(content["protocols"].values()))["by_structure"])
    lines = [
        f"## {title}: {content['labelled']} labelled training cases{_variant(content)}",
        "",
        f"`benchmarks/{path.parent.name}/{path.name}`; {content['held_out']['cases']} held-out cases, "
        f"{len(content['seeds'])} seeds, {content['synthetic']} synthetic pairs; updates: {updates}.",
        "",
        "| Dice | mean (each seed) | " + " | ".join(structures) + " |",
        "| --- | --- |" + " --- |" * len(structures),
    ]
    for name, found in content["protocols"].items():
        seeds = found["mean_dice_by_seed"]
        cells = [f"{_mean(seeds):.3f} ({', '.join(f'{value:.3f}' for value in seeds)})"]
        cells += [f"{_mean(found['by_structure'][structure]['dice']):.3f}" for structure in structures]
        lines.append(f"| {NAMES[name]} | " + " | ".join(cells) + " |")
    lines += ["", "| difference, Dice points | mean | 95 % interval | p |", "| --- | --- | --- | --- |"]
    for found in content["comparisons"]:
        if found["structure"] is None:
            lines.append(_difference(found))
    reconstruction = content["reconstruction"]
    if reconstruction is None:
        return "\n".join([*lines, ""])
    dice = ", ".join(f"{name} {value:.3f}" for name, value in reconstruction["dice"].items() if value is not None)
    lines += [
        "",
        f"Autoencoder, reconstruction Dice on validation cases: {dice}; texture kept: "
        f"{reconstruction['texture_ratio']:.2f} of the standard deviation finer than 3 voxels.",
        "",
    ]
    return "\n".join(lines)


def _variant(content: dict[str, Any]) -> str:
    """Return what sets a run apart from one of the joint model with our recipe.

    >>> _variant({"generator": "medgen3d", "command": "--preset demo-paper"})
    ', MedGen3D, the papers\' recipe'
    """
    generator = content.get("generator", "joint_ldm")
    recipe = ", the papers' recipe" if "-paper " in content["command"] else ""
    return ("" if generator == "joint_ldm" else f", {GENERATORS[generator]}") + recipe


def study(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row(**row) for row in content["rows"]]
    table = as_markdown(rows).replace("### ", "")
    loops = [f"{name} {loop['updates']}" for name, loop in _loops(content["settings"])]
    return (
        f"## Study: {path.stem}\n\n`benchmarks/{path.parent.name}/{path.name}`; generator {content['generator']}; "
        f"updates: {', '.join(loops)}.\n\n{table}"
    )


WORTH = {
    "frechet": "Fréchet distance, lower",
    "kid": "KID, lower",
    "precision": "precision, higher",
    "recall": "recall, higher",
    "coverage": "coverage, higher",
    "ms_ssim": "MS-SSIM between cases, as real",
    "noise_ratio": "noise, ratio to real, 1",
    "noise_power_distance": "noise power spectrum, dB, lower",
    "edge_width": "width of edges, mm, as real",
    "third_class_rate": "third class at borders, lower",
    "rules_broken": "anatomical rules broken, lower",
    "dice": "Dice of a real-only segmenter, higher",
    "edge_offset": "image edge from label edge, mm, as real",
}
OF_RECONSTRUCTIONS = {name: WORTH[name] for name in ("noise_ratio", "noise_power_distance", "edge_width")}


def worth(paths: Sequence[Path]) -> str:
    """What pairs are worth: a column per run, each value beside the same among real scans."""
    contents = {path.stem.removeprefix("worth-"): json.loads(path.read_text(encoding="utf-8")) for path in paths}
    lines = [
        "## What the pairs are worth, and whom they copy",
        "",
        "In brackets the same number among real scans, from equally large samples (`docs/evaluation.md` says what each "
        "means). Files: " + ", ".join(f"`benchmarks/evaluation/{path.name}`" for path in paths) + ".",
        "",
        _row("", contents),
        _row("---", ["---"] * len(contents)),
    ]
    for name, words in WORTH.items():
        lines.append(_row(words, [_worth(content["measures"], name) for content in contents.values()]))
    for name, words in OF_RECONSTRUCTIONS.items():
        rebuilt = ((content.get("reconstructions") or {"measures": []})["measures"] for content in contents.values())
        cells = [_worth(measures, name) for measures in rebuilt]
        lines.append(_row(f"of reconstructions: {words}", cells))
    audits = [content["audit"] for content in contents.values()]
    lines += [
        _row("synthetic cases listed as copies", [f"{len(a['copies'])} of {a['synthetic']}" for a in audits]),
        _row("patients copied", [f"{a['patients_copied']} of {a['patients']}" for a in audits]),
        _row("membership AUC", [f"{a['membership_auc']:.2f}" for a in audits]),
        _row("planted copies found", [f"{a['control']['found']} of {a['control']['planted']}" for a in audits]),
    ]
    return "\n".join(lines) + "\n"


def first_experiment(path: Path) -> str:
    """MedGen3D's Table 1 on our data, as ``medgen3d/table.py`` words it."""
    words = (
        f"`benchmarks/medgen3d/{path.name}`; every cell is of the synthetic cases / of real cases beside other real "
        "ones. Lower is better for distances, the real number for all else; seconds are of the processor, one thread."
    )
    spec = importlib.util.spec_from_file_location("table_of_e1", path.parent / "table.py")
    made_by = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made_by)
    table = made_by.as_markdown(json.loads(path.read_text(encoding="utf-8")))
    return f"## MedGen3D's experiment E1: {path.stem.removeprefix('e1-')}\n\n{words}\n\n{table}"


def _worth(measures: Sequence[dict[str, Any]], name: str) -> str:
    for found in measures:
        if found["name"] == name and found["structure"] is None and found["view"] is None:
            floor = "" if found["floor"] is None else f" ({found['floor']:.3g})"
            return "–" if found["value"] is None else f"{found['value']:.3g}{floor}"
    return "–"


def _by_number(path: Path) -> list[str | int]:
    """Order of file names in which labelled-48 stands before labelled-168."""
    return [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", path.stem)]


def _row(head: str, cells: Iterable[str]) -> str:
    return f"| {' | '.join([head, *cells])} |"


def _loops(settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    generator = settings["generator"]
    found = [(name, generator[name]) for name in ("autoencoder", "diffusion") if name in generator]
    found += [("pretraining", settings["pretraining"]), ("segmenter", settings["segmentation"])]
    return [(name, part["loop"]) for name, part in found]


def cost(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    machine = f"{content['machine']['cores']} {content['machine']['processor']} cores"
    if content["machine"].get("threads") == 1:
        machine += ", one of them used"
    return (
        f"* `{content['command']}`: {content['wall_seconds'] / 60:.1f} minutes, "
        f"{content['peak_memory_gib']:.1f} GiB at most{_by_cases(content)}, on {machine} "
        f"(`benchmarks/speed/{path.name}`)"
        + "".join(
            f"\n    * {name}: {seconds / 60:.1f} minutes"
            for name, seconds in content.get("seconds_by_command", {}).items()
        )
    )


def _by_cases(content: dict[str, Any]) -> str:
    """Return the peaks of other numbers of cases, where they were measured.

    >>> _by_cases({"cases": 200, "peak_memory_gib_by_cases": {"50": 0.7, "200": 0.8}})
    ' (0.70 GiB with 50 cases a side in place of 200)'
    """
    peaks = content.get("peak_memory_gib_by_cases", {})
    others = [
        f"{peak:.2f} GiB with {count} cases a side" for count, peak in peaks.items() if int(count) != content["cases"]
    ]
    return f" ({', '.join(others)} in place of {content['cases']})" if others else ""


def where_time_goes(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    lines = ["## Where the time of an update goes", "", f"`benchmarks/speed/{path.name}`, {content['precision']}.", ""]
    for name, found in content["share_of_time"].items():
        largest = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in found.items() if share >= 0.01)
        lines.append(f"* {name}: {largest}")
    return "\n".join(lines) + "\n"


def _difference(found: dict[str, Any]) -> str:
    mean, low, high = (100 * found[key] for key in ("difference", "low", "high"))
    p_value = "" if found["p_value"] is None else f"{found['p_value']:.3f}" if found["p_value"] >= 0.001 else "< 0.001"
    return f"| {NAMES[found['a']]} − {NAMES[found['b']]} | {mean:+.2f} | {low:+.2f} to {high:+.2f} | {p_value} |"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
