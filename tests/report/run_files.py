"""Writes tiny files of the kinds that a report reads, as plain JSON, CSV and npz."""

import json
from pathlib import Path

import numpy as np

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
        "sd_seeds": None,
        "low": mean - 0.0213,
        "high": mean + 0.0217,
        "patients": CASES,
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
            "dice_of_patients": generator.normal(dice, 0.04, CASES - 1).clip(0, 1).tolist(),
            "counts": {"ok": CASES - i, "ref_empty": 0, "pred_empty": i, "both_empty": 0},
        }
        for i, name in enumerate(STRUCTURES)
    }
    content = {"dice": estimate(dice), "structures": structures, "seeds": 1, "cases": CASES, "patients": CASES}
    dump(folder / "masks.json", content | {"tolerance_mm": 1.0, "missing_predictions": [], "extra_predictions": []})


def comparison(a, b, structure, difference, half=0.009):
    return {
        "a": a, "b": b, "structure": structure, "mean_a": PROTOCOLS[a], "mean_b": PROTOCOLS[b],
        "difference": difference, "low": difference - half, "high": difference + half, "p_value": 0.0371,
        "sd_seeds_a": None, "sd_seeds_b": None, "smallest_detectable": 0.0123, "seeds_a": 1, "seeds_b": 1,
        "patients": CASES,
    }  # fmt: skip


def measure(group, name, value, floor, better, half=0.1, **changes):
    """A measure as ``asdict`` gives it; its intervals reach ``half`` of the value to each side."""
    ends = {"low": None, "high": None, "floor_low": None, "floor_high": None}
    if value is not None:
        low, high = sorted((value * (1 - half), value * (1 + half)))
        floor_low, floor_high = sorted((floor * (1 - half), floor * (1 + half)))
        ends = {"low": low, "high": high, "floor_low": floor_low, "floor_high": floor_high}
    rest = {"structure": None, "view": None, "unit": "", "synthetic_cases": 20, "real_cases": 20, "note": ""}
    return {"group": group, "name": name, "value": value, "floor": floor, "better": better} | ends | rest | changes


def pairs_files(folder: Path, structures, generator, unit="HU") -> None:
    """Files of ``evaluate pairs``: fidelity and texture differ, diversity and alignment do not."""
    views, w1 = {"axial": 3.4, "coronal": 2.9, "sagittal": 3.1}, dict.fromkeys(structures, 31.5)
    measures = [
        measure("fidelity", "frechet", 3.14, 1.21, "lower", note="below 50 cases it is dominated by their number"),
        *(measure("fidelity", "frechet", value, 1.2, "lower", view=view) for view, value in views.items()),
        measure("fidelity", "coverage", 0.62, 0.91, "higher"),
        measure("diversity", "ms_ssim", 0.41, 0.4, "floor"),
        *(measure("texture", "wasserstein", v, 12.0, "lower", structure=n, unit=unit) for n, v in w1.items()),
        measure("texture", "sd_ratio", 0.71, 1.0, "floor", structure=next(iter(structures))),
        measure("plausibility", "components", 1.02, 1.0, "floor"),
        measure("plausibility", "third_class_rate", None, None, "lower", note="no boundary was long enough"),
        measure("alignment", "dice_with_real_segmenter", 0.83, 0.85, "higher"),
        measure("alignment", "edge_offset", 0.3, 0.28, "floor", unit="mm"),
    ]
    content = {
        "extractor": {"name": "segmenter encoder", "digest": "0123abcd"},
        "cohorts": {"synthetic": {"cases": 100}, "real": {"cases": 40}},
        "warnings": [f"a warning {HOSTILE}"],
        "measures": measures,
    }
    dump(folder / "pairs.json", content)
    edges, frequency = np.linspace(-200, 500, 29), np.linspace(0.02, 0.3, 12)
    histograms, noise_power = {}, {}
    for i, name in enumerate(structures):
        real, made = (np.histogram(generator.normal(60 + 40 * i, sd, 2000), edges)[0] for sd in (60, 45))
        histograms[name] = {"edges": edges.tolist(), "real": real.tolist(), "synthetic": made.tolist()}
        power = 400 * np.exp(-frequency * 8)
        noise_power[name] = {
            "frequency_per_mm": frequency.tolist(),
            "real": power.tolist(),
            "synthetic": (power * np.exp(-frequency * 6)).tolist(),
        }
    noise_power["too small"] = {"frequency_per_mm": [], "real": [], "synthetic": []}
    dump(folder / "curves.json", {"histograms": histograms, "noise_power": noise_power, "unit": unit})


def audit_files(folder: Path, generator, copies=1, passed=True) -> None:
    match = {"nearest": "r3", "patient": "p3", "score": 0.97, "threshold": 0.9, "detector": "embedding"}
    found = [{"case": f"s{i + 1}"} | match for i in range(copies)]
    sides = {
        name: {
            "threshold": 0.9,
            "false_alarm_rate": 0.05,
            "nearest_synthetic": [0.97, *generator.normal(0.6, 0.1, 60).clip(0, 0.89).tolist()],
            "nearest_reference": generator.normal(0.62, 0.12, 40).clip(0, 0.93).tolist(),
        }
        for name in ("embedding", "voxels", "labels")
    }
    hits = {"exact": 10, "shift": 10, "noise": 9 if passed else 3, "flip": 8 if passed else 0}
    control = {
        "passed": passed,
        "planted": 40,
        "found": sum(hits.values()),
        "by_disguise": {name: {"planted": 10, "found": count} for name, count in hits.items()},
    }
    content = {
        "copies": found, "patients_copied": min(copies, 1), "patients": 40, "synthetic": 100,
        "share_of_patients_copied": min(copies, 1) / 40, "expected_false_alarms": 0.5, "membership_auc": 0.53,
        "membership_interval": [0.44, 0.62], "detectors": sides, "control": control, "warnings": [],
    }  # fmt: skip
    dump(folder / "audit.json", content)


def selection_files(path: Path) -> None:
    rejected = [{"index": i, "reasons": [f"LA has {i} mL; real cases have 31 to 97", HOSTILE]} for i in (3, 8)]
    rules = {"volume": 2, "topology": 0, "copy": 0}
    dump(path, {"drawn": 102, "accepted": 100, "rate": 100 / 102, "rules": rules, "rejected": rejected})


def preview(path: Path, names, generator, protocols=(), shape=(14, 12, 10), nearest=False) -> None:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = np.sqrt(x**2 + (y + 0.2) ** 2 + z**2)
    labels = (np.digitize(-radius, [-0.75, -0.5]) + (radius < 0.25)).astype(np.uint8)
    arrays = {"names": np.array(names), "spacing": np.tile([1.0, 1.5, 2.0], (len(names), 1))}
    arrays["intensity_range"] = np.array([-1000.0, 2000.0])
    for name in names:
        noise = generator.normal(0, 0.02, shape)
        arrays[f"{name}_image"] = np.clip(0.34 + 0.06 * labels + noise, 0, 1).astype(np.float32)
        arrays[f"{name}_labels"] = labels
        if nearest:
            arrays[f"{name}_nearest"] = np.roll(arrays[f"{name}_image"], 1, 0)
        arrays |= {f"{name}_{protocol}": np.roll(labels, i, 0) for i, protocol in enumerate(protocols)}
    if protocols:
        arrays["protocols"] = np.array(protocols)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def log(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    records = [{"update": u, "loss": 1 / (1 + u)} | ({"score": u / 40} if u % 10 == 0 else {}) for u in range(40)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def complete_run(folder: Path) -> Path:
    """Write a complete run; one seed, an interval that holds zero, hostile text wherever a user may write."""
    generator = np.random.default_rng(0)
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
    preview(folder / "synthetic/rejected.npz", ["x3", "x8"], generator)
    preview(folder / "previews/predictions.npz", ["t2", "t9", "t1"], generator, protocols=list(PROTOCOLS))
    preview(folder / "audit/copies.npz", ["s1", "s2"], generator, nearest=True)
    pairs_files(folder / "pairs", STRUCTURES, generator)
    audit_files(folder / "audit", generator)
    selection_files(folder / "synthetic/selection.json")
    return folder
