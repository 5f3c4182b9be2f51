"""Table E1 in Markdown, from the JSON files beside this script.

python benchmarks/medgen3d/table.py        prints the tables of all data sets
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = {
    "slice_ddpm": "DDPM, a 2D model per view",
    "alpha_wgan": "3D-α-WGAN",
    "vid2vid": "Vid2Vid alone",
    "medgen3d": "MedGen3D",
    "repainted": "MedGen3D on held-out labels",
    "joint_ldm": "joint model",
}
IMAGES = {
    "slice_frechet": "Fréchet, slices",
    "slice_kid": "KID",
    "slice_precision": "precision",
    "slice_recall": "recall",
    "slice_density": "density",
    "slice_coverage": "coverage",
    "grey_distance": "grey values",
    "detail_ratio": "detail",
    "frechet": "Fréchet, volumes",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "ms_ssim": "MS-SSIM",
    "ssim": "SSIM",
    "image_step": "image step",
    "image_jump": "jump",
}
PAIRS = {
    "dice": "label Dice",
    "third_class_rate": "third class",
    "noise_ratio": "noise",
    "noise_power_distance": "noise power, dB",
    "label_step": "label step",
    "label_jump": "jump",
}


def main() -> None:
    for path in sorted(HERE.glob("e1-*.json")):
        print(as_markdown(json.loads(path.read_text(encoding="utf-8"))))


def as_markdown(content: Mapping[str, Any]) -> str:
    """Return three tables: images, pairs, costs; every number beside that of real cases against real ones."""
    cohort, rows = content["cohort"], content["rows"]
    splits = ", ".join(f"{count} {name}" for name, count in cohort["splits"].items())
    grid = " x ".join(map(str, cohort["grid"]))
    extractor = f"Features: {content['extractor']['name']}."
    parts = [f"{cohort['modality']}, {splits}, {grid} voxels. {extractor} `{content['command']}`", ""]
    for head in (IMAGES, PAIRS):
        lines = [_line(row, found, head) for row, found in rows.items() if "failed" not in found]
        known = [index for index, name in enumerate(head) if any(line[1 + index] != "" for line in lines)]
        if known:
            words = [list(head.values())[index] for index in known]
            filled = [[line[0], *(line[1 + index] for index in known)] for line in lines]
            parts += _table(["synthetic / real", *words], [line for line in filled if any(line[1:])])
    parts += [f"* {NAMES[row]}: {found['failed']}" for row, found in rows.items() if "failed" in found]
    return "\n".join(parts + _costs(rows))


def _line(row: str, found: Mapping[str, Any], head: Mapping[str, str]) -> list[str]:
    whole = {one["name"]: one for one in found["measures"] if one["structure"] is None and one["view"] is None}
    cells = [NAMES[row]]
    for name in head:
        one = whole.get(name)
        if one is None:
            cells.append("")
        else:
            cells.append(" / ".join("–" if one[key] is None else f"{one[key]:.3g}" for key in ("value", "floor")))
    return cells


def _costs(rows: Mapping[str, Any]) -> list[str]:
    lines = []
    for row, found in rows.items():
        if "failed" not in found:
            fit, draw = found["fit"], found["draw"]
            updates = ", ".join(f"{name} {one['updates']}" for name, one in fit["steps"].items())
            minutes = "shared" if fit["shared_with"] else f"{fit['processor_seconds'] / 60:.1f}"
            memory = [f"{part['peak_memory_gib']:.2f}" for part in (fit, draw)]
            lines.append([NAMES[row], updates, minutes, f"{draw['processor_seconds_per_case']:.3g}", *memory])
    return _table(["", "updates", "fit, min", "s per case", "fit, GiB", "draw, GiB"], lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *lines]
    return [*("| " + " | ".join(row) + " |" for row in rows), ""]


if __name__ == "__main__":
    main()
