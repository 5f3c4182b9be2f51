"""Are phantom hearts as large, as bright and as well connected as published ones? Writes ``acceptance.json``.

    python benchmarks/phantom/acceptance.py --hearts 300     measure, and write docs/phantom.md's table
    python benchmarks/phantom/acceptance.py --table          write the table from the file that is there

Every heart is built on a coarse grid that cuts nothing off, at end-diastole and at end-systole, and measured there by
counting voxels of its clean outlines; its brightness is the median inside eroded outlines of the noiseless image.
Diameters are those of a disc as large as a slab across the vessel or ventricle. The appendage's orifice has no outline
of its own: ``tests/phantom/test_anatomy.py`` holds its parameter, ``test_acceptance_anatomy.py`` its area.
Targets and their spreads are those of the literature (named in ``population.py`` and ``contrast.py``). ``z`` is the
difference of the means over the published standard deviation, divided by the square root of the number of hearts.

A file is accepted (:func:`failures`) if

    every row                |z| < 3, and its SD is 0.6 to 1.3 of the published one
    sizes, and levels        the sum of z^2 is below the 99.9 % point of chi-square with as many degrees of freedom as
                             there are rows; rows go together, which makes large sums likelier: the bound is strict
    correlations             within 0.1 of the wanted ones
    every heart              stroke volumes within 6 % (up to 3 % are drawn), wall volume within 3 % over the beat,
                             neighbours touch, LV and RV do not, 95 % of the appendage in one piece
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation, binary_erosion, label
from scipy.stats import chi2

from voxpair.core.labels import CARDIAC8
from voxpair.core.run import read_json, versions, write_json, write_text
from voxpair.phantom.anatomy import HeartParameters
from voxpair.phantom.annotation import outlined_layers
from voxpair.phantom.contrast import BLOOD_HU, TISSUE_HU
from voxpair.phantom.frame import APEX, heart_grid, heart_pose
from voxpair.phantom.heart_cohort import PhantomSettings, draw_parameters
from voxpair.phantom.layers import label_map
from voxpair.phantom.scene import Scene, build_scene
from voxpair.phantom.vessels import fixed

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/phantom.md"
BEGIN, END = "<!-- acceptance -->\n", "<!-- end of acceptance -->\n"
FIELD_MM = ((-92.0, 118.0), (-90.0, 102.0), (-104.0, 122.0))

# quantity: {sex: (mean, SD)}; RV: the CT left ventricle times the MR ratio of the two
SIZES = {
    "LV_diastolic_ml": {"M": (112.9, 26.1), "F": (98.2, 21.0)},
    "LV_systolic_ml": {"M": (41.7, 14.7), "F": (33.7, 12.2)},
    "ejection_percent": {"M": (63.4, 7.7), "F": (66.4, 7.6)},
    "LV_diameter_mm": {"M": (48.0, 5.3), "F": (48.0, 5.7)},
    "MYO_ml": {"M": (138.0, 27.7), "F": (103.0, 19.0)},
    "RV_diastolic_ml": {"M": (134.0, 24.0), "F": (107.7, 24.0)},
    "LA_largest_ml": {"M": (103.0, 30.0), "F": (89.0, 21.0)},
    "RA_largest_ml": {"M": (93.0, 27.0), "F": (69.0, 17.0)},
    "LAA_ml": {"M": (5.2, 3.0), "F": (5.2, 3.0)},
    "ascending_mm": {"M": (34.1, 3.9), "F": (31.9, 3.5)},
    "descending_mm": {"M": (25.8, 3.0), "F": (23.1, 2.6)},
    "pulmonary_mm": {"M": (26.0, 2.6), "F": (24.2, 2.6)},
}
# diameter: of which vessel, from one point of the reference heart to another, or of the body where it does not turn
SLABS = {
    "ascending_mm": ("AO", (27.3, 14.5, 60.0), (26.7, 11.7, 67.5)),
    "pulmonary_mm": ("PA", (-9.0, 25.0, 40.0), (-9.0, 15.2, 46.9)),
    "descending_mm": ("AO", (-10.0, -64.4, 10.0), (-10.0, -65.1, 30.0)),
}
_ASIDE_MM = 36.0
"""Farther from a vessel's middle a slab holds another: the aorta crosses most of them twice."""
CORRELATIONS = {("LV_diastolic_ml", "RV_diastolic_ml"): 0.8, ("LV_diastolic_ml", "LA_largest_ml"): 0.5,
                ("RV_diastolic_ml", "RA_largest_ml"): 0.6}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hearts", type=int, default=300)
    parser.add_argument("--spacing-mm", type=float, default=3.5)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    if not given.table:
        write_json(HERE / "acceptance.json", acceptance(given.hearts, given.spacing_mm))
    result, page = read_json(HERE / "acceptance.json"), PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    write_text(PAGE, before + BEGIN + table(result) + END + after)
    print("\n".join(failures(result)) or "accepted")


def acceptance(count: int, spacing_mm: float) -> dict[str, Any]:
    """Return what ``count`` hearts on voxels of ``spacing_mm`` are like, beside the targets."""
    settings = PhantomSettings(contrast=dict.fromkeys(BLOOD_HU, 1.0))
    hearts = pd.DataFrame([measure(draw_parameters(0, i, settings), spacing_mm) for i in range(count)])
    return {
        "command": f"python benchmarks/phantom/acceptance.py --hearts {count} --spacing-mm {spacing_mm}",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": versions(),
        "sizes": sizes(hearts),
        "correlations": correlations(hearts),
        "brightness_hu": brightness(hearts),
        "invariants": invariants(hearts),
    }


def measure(p: HeartParameters, spacing_mm: float) -> dict[str, Any]:
    """Return sizes, levels and contacts of one patient, from label maps at end-diastole and end-systole."""
    axes = [np.arange(low, high, spacing_mm) for low, high in FIELD_MM]
    voxel_ml = spacing_mm**3 / 1000
    scenes = {name: build_scene(axes, replace(p, phase=phase)) for name, phase in (("full", 0.0), ("empty", 0.35))}
    labels = {name: label_map(outlined_layers(scene, 0.0)) for name, scene in scenes.items()}
    volumes = {
        name: {s.name: float((found == s.value).sum()) * voxel_ml for s in CARDIAC8.structures}
        for name, found in labels.items()
    }
    full, empty = volumes["full"], volumes["empty"]
    return {
        "sex": p.sex,
        "contrast": p.contrast,
        "LV_diastolic_ml": full["LV"],
        "LV_systolic_ml": empty["LV"],
        "RV_diastolic_ml": full["RV"],
        "RV_systolic_ml": empty["RV"],
        "ejection_percent": 100 * (1 - empty["LV"] / full["LV"]),
        "LV_diameter_mm": _ventricle_diameter(labels["full"], axes, p),
        "MYO_ml": full["MYO"],
        "MYO_systolic_ml": empty["MYO"],
        "LA_largest_ml": empty["LA"],
        "RA_largest_ml": empty["RA"],
        "LAA_ml": 0.5 * (full["LAA"] + empty["LAA"]),
        **{name: _vessel_diameter(labels["full"], axes, p, name) for name in SLABS},
        **_levels(scenes["full"], labels["full"], spacing_mm),
        **_contacts(labels["full"]),
    }


def _ventricle_diameter(labels: np.ndarray, axes: list[np.ndarray], p: HeartParameters) -> float:
    """Return the diameter (mm) of a disc as large as the LV's widest slab of 6 mm across its long axis."""
    voxels = np.argwhere(labels == CARDIAC8.value_of("LV"))
    depth = np.stack([axis[i] for axis, i in zip(axes, voxels.T)], axis=1) @ (heart_pose(p).rotation @ APEX)
    slabs, _ = np.histogram(depth, np.arange(depth.min() + 12, depth.max(), 6))
    area = slabs.max() * (axes[0][1] - axes[0][0]) ** 3 / 6
    return float(2 * np.sqrt(area / np.pi))


def _vessel_diameter(labels: np.ndarray, axes: list[np.ndarray], p: HeartParameters, name: str) -> float:
    """Return the diameter (mm) of a cylinder as large as what a slab across the vessel holds of it."""
    grid = heart_grid(axes, replace(p, phase=0.0))
    vessel, *ends = SLABS[name]
    start, end = fixed(grid.pose, *ends) if name == "descending_mm" else map(np.array, ends)
    length = np.linalg.norm(end - start)
    unit = (end - start) / length
    offset = grid.points - start[:, None, None, None]
    along = np.tensordot(unit, offset, axes=1)
    aside = np.linalg.norm(offset - along * unit[:, None, None, None], axis=0)
    here = (along >= 0) & (along < length) & (aside * grid.pose.scale < _ASIDE_MM)
    volume = (here & (labels == CARDIAC8.value_of(vessel))).sum() * np.prod([axis[1] - axis[0] for axis in axes])
    return float(2 * np.sqrt(volume / (np.pi * length * grid.pose.scale)))


def _levels(scene: Scene, labels: np.ndarray, spacing_mm: float) -> dict[str, float]:
    """Return median HU inside each structure, and the lung's."""
    image = np.full(labels.shape, -1000.0, np.float32)
    for layer in scene.layers:
        share = np.clip(0.5 - layer.distance / spacing_mm, 0, 1)
        image += share * (layer.level_hu - image)
    found = {"hu_lung": float(np.median(image[(image < -700) & (image > -980)]))}
    for name in ("LV", "LA", "AO", "PA", "RV", "RA", "MYO"):
        inside = labels == CARDIAC8.value_of(name)
        core = binary_erosion(inside, iterations=2 if name != "MYO" else 1)
        found[f"hu_{name}"] = float(np.median(image[core if core.any() else inside]))
    return found


def _contacts(labels: np.ndarray) -> dict[str, Any]:
    """Return how many voxels touch, and the share of the appendage that is one piece."""
    inside = {s.name: labels == s.value for s in CARDIAC8.structures}

    def touching(first: str, second: str) -> int:
        return int((binary_dilation(inside[first]) & inside[second]).sum())

    pieces = np.bincount(label(inside["LAA"], np.ones((3, 3, 3)))[0].ravel())[1:]
    pairs = (("LA", "LAA"), ("AO", "LV"), ("PA", "RV"), ("LA", "LV"), ("RA", "RV"), ("LV", "RV"))
    return {f"touch_{a}_{b}": touching(a, b) for a, b in pairs} | {"LAA_in_one": float(pieces.max() / pieces.sum())}


def sizes(hearts: pd.DataFrame) -> dict[str, Any]:
    """Return for each size and sex: mean and SD, the published ones, and z."""
    table: dict[str, Any] = {}
    for name, targets in SIZES.items():
        for sex, (mean, sd) in targets.items():
            values = hearts.loc[hearts.sex == sex, name]
            table[f"{name} {sex}"] = {
                "mean": round(float(values.mean()), 2),
                "sd": round(float(values.std()), 2),
                "published": [mean, sd],
                "z": round(float((values.mean() - mean) / (sd / np.sqrt(len(values)))), 2),
            }
    return table


def correlations(hearts: pd.DataFrame) -> dict[str, Any]:
    """Return the correlation of the logarithms, within the sexes, and the wanted one."""
    table = {}
    for (first, second), wanted in CORRELATIONS.items():
        within = [np.corrcoef(np.log(group[first]), np.log(group[second]))[0, 1] for _, group in hearts.groupby("sex")]
        table[f"{first} {second}"] = {"found": round(float(np.mean(within)), 2), "wanted": wanted}
    return table


def brightness(hearts: pd.DataFrame) -> dict[str, Any]:
    """Return for each state and structure: mean and SD of the medians, the design's, and z."""
    table: dict[str, Any] = {}
    for state, group in hearts.groupby("contrast"):
        targets = {**BLOOD_HU[state], "LA": BLOOD_HU[state]["LV"], "AO": BLOOD_HU[state]["LV"]}
        targets["MYO"] = TISSUE_HU[state]["MYO"]
        for name in ("LV", "LA", "AO", "PA", "RV", "RA", "MYO"):
            values, (mean, sd) = group[f"hu_{name}"], targets[name]
            table[f"{state} {name}"] = {
                "mean": round(float(values.mean()), 1),
                "sd": round(float(values.std()), 1),
                "design": [mean, sd],
                "z": round(float((values.mean() - mean) / (sd / np.sqrt(len(values)))), 2),
            }
    return table


def invariants(hearts: pd.DataFrame) -> dict[str, float]:
    """Return the worst case over all hearts of what must hold for each."""
    left = hearts.LV_diastolic_ml - hearts.LV_systolic_ml
    right = hearts.RV_diastolic_ml - hearts.RV_systolic_ml
    touching = [name for name in hearts if name.startswith("touch_") and name != "touch_LV_RV"]
    return {
        "hearts": len(hearts),
        "stroke_volumes_differ_at_most": round(float((right / left - 1).abs().max()), 3),
        "wall_volume_changes_at_most": round(float((hearts.MYO_systolic_ml / hearts.MYO_ml - 1).abs().max()), 3),
        "fewest_touching_voxels": int(hearts[touching].min().min()),
        "LV_RV_touching_voxels": int(hearts.touch_LV_RV.max()),
        "LAA_in_one_piece_at_least": round(float(hearts.LAA_in_one.min()), 3),
    }


def failures(result: dict[str, Any]) -> list[str]:
    """Return what of ``acceptance.json`` is not as the top of this file asks; nothing if all is."""
    found = []
    for part, target in (("sizes", "published"), ("brightness_hu", "design")):
        rows = result[part]
        for name, row in rows.items():
            if abs(row["z"]) >= 3:
                found.append(f"{name}: z = {row['z']}")
            if not 0.6 <= row["sd"] / row[target][1] <= 1.3:
                found.append(f"{name}: SD {row['sd']} against {row[target][1]}")
        total, limit = sum(row["z"] ** 2 for row in rows.values()), chi2.ppf(0.999, len(rows))
        if total >= limit:
            found.append(f"{part}: the sum of z^2 is {total:.1f} over {len(rows)} rows, expected below {limit:.1f}")
    for name, row in result["correlations"].items():
        if abs(row["found"] - row["wanted"]) > 0.1:
            found.append(f"correlation of {name}: {row['found']} against {row['wanted']}")
    worst = result["invariants"]
    holds = {
        "hearts": worst["hearts"] >= 300,
        "stroke_volumes_differ_at_most": worst["stroke_volumes_differ_at_most"] <= 0.06,
        "wall_volume_changes_at_most": worst["wall_volume_changes_at_most"] <= 0.03,
        "fewest_touching_voxels": worst["fewest_touching_voxels"] >= 1,
        "LV_RV_touching_voxels": worst["LV_RV_touching_voxels"] == 0,
        "LAA_in_one_piece_at_least": worst["LAA_in_one_piece_at_least"] >= 0.95,
    }
    return found + [f"{name}: {worst[name]}" for name, held in holds.items() if not held]


def table(result: dict[str, Any]) -> str:
    """Return the two tables of ``docs/phantom.md``: measured against published, or against the design."""
    lines = ["", "| size | men | published | women | published |", "| --- | --- | --- | --- | --- |"]
    for name in SIZES:
        cells = []
        for row in (result["sizes"][f"{name} {sex}"] for sex in "MF"):
            mean, sd = row["published"]
            cells += [f"{row['mean']:.1f} ± {row['sd']:.1f}", f"{mean:.1f} ± {sd:.1f}"]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    chambers = ("LV", "LA", "AO", "PA", "RV", "RA", "MYO")
    lines += ["", f"| HU | {' | '.join(chambers)} |", "| --- " * (len(chambers) + 1) + "|"]
    for state in BLOOD_HU:
        rows = [result["brightness_hu"][f"{state} {name}"] for name in chambers]
        cells = [f"{row['mean']:.0f} ({row['design'][0]} ± {row['design'][1]})" for row in rows]
        lines.append(f"| {state.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
