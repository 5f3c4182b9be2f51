"""A run folder with tiny files of the kinds that a report reads, written as plain JSON, CSV and npz."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

STRUCTURES = {"LV": [3, "#ee6677"], "LA": [2, "#4477aa"], "<b>MYO</b>": [1, "#bbbbbb"]}
PROTOCOLS = {"baseline": 0.80, "medical_diffusion": 0.82, "ours": 0.84}
HOSTILE = "<script>alert('x')</script>"
CASES = 9


def dump(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def estimate(mean, **changes):
    return {
        "mean": mean,
        "sd": 0.05,
        "low": mean - 0.0213,
        "high": mean + 0.0217,
        "cases": CASES,
        "undefined": 0,
    } | changes


def evaluation(folder: Path, dice: float, generator) -> None:
    structures = {
        name: {
            "dice": estimate(dice + 0.01 * i),
            "hd95_mm": estimate(7.5 - i, undefined=i),
            "assd_mm": estimate(1.25 + i),
            "nsd": estimate(0.9),
            "volume_error_ml": estimate(-0.5),
            "counts": {"ok": CASES - i, "ref_empty": 0, "pred_empty": i, "both_empty": 0},
        }
        for i, name in enumerate(STRUCTURES)
    }
    content = {"dice": estimate(dice), "structures": structures, "cases": CASES, "patients": CASES, "tolerance_mm": 1.0}
    dump(folder / "masks.json", content | {"missing_predictions": [], "extra_predictions": []})
    with (folder / "masks.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "patient", "structure", "dice", "status"])
        for case in range(CASES):
            for name in STRUCTURES:
                value = "" if case == 0 else float(np.clip(generator.normal(dice, 0.04), 0, 1))
                writer.writerow([f"c{case}", f"p{case}", name, value, "ok" if value else "both_empty"])


def comparison(a, b, structure, difference, half=0.009):
    return {
        "a": a, "b": b, "structure": structure, "mean_a": PROTOCOLS[a], "mean_b": PROTOCOLS[b],
        "difference": difference, "low": difference - half, "high": difference + half, "p_value": 0.0371,
        "sd_seeds_a": None, "sd_seeds_b": None, "smallest_detectable": 0.0123, "seeds_a": 1, "seeds_b": 1,
        "patients": CASES,
    }  # fmt: skip


def preview(path: Path, names, generator, protocols=(), shape=(14, 12, 10)) -> None:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(x**2 + (y + 0.2) ** 2 + z**2)
    labels = (np.digitize(-radius, [-0.75, -0.5]) + (radius < 0.25)).astype(np.uint8)
    arrays = {"names": np.array(names), "spacing": np.tile([1.0, 1.5, 2.0], (len(names), 1))}
    arrays["intensity_range"] = np.array([-1000.0, 2000.0])
    for name in names:
        noise = generator.normal(0, 0.02, shape)
        arrays[f"{name}_image"] = np.clip(0.34 + 0.06 * labels + noise, 0, 1).astype(np.float32)
        arrays[f"{name}_labels"] = labels
        arrays |= {f"{name}_{protocol}": np.roll(labels, i, 0) for i, protocol in enumerate(protocols)}
    if protocols:
        arrays["protocols"] = np.array(protocols)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def log(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    records = [{"update": u, "loss": 1 / (1 + u)} | ({"score": u / 40} if u % 10 == 0 else {}) for u in range(40)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A complete run; one seed, an interval that holds zero, hostile text wherever a user may write."""
    folder, generator = tmp_path / "run", np.random.default_rng(0)
    cohort = {
        "cases": 262, "patients": 250, "labelled": 40, "splits": {"train": 168, "val": 43, "test": 51},
        "modality": "CT", "label_table": STRUCTURES, "sizes": "14 × 12 × 10 voxels", "spacings": "1 × 1.5 × 2 mm",
        "attributes": {"sex": {"F": 130, "M": 132}}, "notes": [f"case {HOSTILE} has no patient"],
    }  # fmt: skip
    summary = {
        "title": "Hearts", "about": "a test", "command": f"voxpair run '{HOSTILE}' -o out", "preset": "unit", "seed": 7,
        "versions": {"voxpair": "0.1.0", "torch": "2.13.0"}, "held_out": "test", "synthetic": 500, "cohort": cohort,
    }  # fmt: skip
    dump(folder / "summary.json", summary)
    dump(folder / "timings.json", {"generator": 5000.0, HOSTILE: 75.0})
    (folder / "settings.yaml").write_text(f"# {HOSTILE}\nupdates: 12345\n")
    dump(folder / "generator/autoencoder/reconstruction.json", {"dice": {"LV": 0.9713, "LA": 0.9}, "cases": 4})
    for part in (
        "generator/autoencoder",
        "generator/diffusion",
        "pretraining",
        *(f"segmenters/{p}" for p in PROTOCOLS),
    ):
        log(folder / part)
    for protocol, dice in PROTOCOLS.items():
        evaluation(folder / "evaluation" / protocol, dice, generator)
    comparisons = [comparison("ours", "baseline", None, 0.008)]
    comparisons += [comparison("ours", "baseline", name, 0.01) | {"p_holm": 0.2} for name in STRUCTURES]
    dump(folder / "evaluation/comparison.json", {"metric": "dice", "unit": "patient", "comparisons": comparisons})
    preview(folder / "previews/real.npz", ["r1", "r2$", "r3"], generator)
    preview(folder / "previews/synthetic.npz", ["s1", "s2", "s3"], generator)
    preview(folder / "previews/predictions.npz", ["t1", "t2"], generator, protocols=list(PROTOCOLS))
    return folder
