"""A complete run folder, and reports without pictures."""

from pathlib import Path

import numpy as np
import pytest
from run_files import (
    HOSTILE,
    PROTOCOLS,
    STRUCTURES,
    audit_files,
    comparison,
    dump,
    evaluation,
    log,
    pairs_files,
    preview,
    selection_files,
)

from voxpair.report import charts, figures


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
    preview(folder / "previews/rejected.npz", ["x3", "x8"], generator)
    preview(folder / "previews/predictions.npz", ["t2", "t9", "t1"], generator, protocols=list(PROTOCOLS))
    preview(folder / "audit/copies.npz", ["s1", "s2"], generator, nearest=True)
    pairs_files(folder / "pairs", STRUCTURES, generator)
    audit_files(folder / "audit", generator)
    selection_files(folder / "synthetic/selection.json")
    return folder


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures have tests of their own; where only words matter, they need not be drawn again."""
    monkeypatch.setattr(figures, "tile_sheet", lambda *_: figures.Layers(b"", b""))
    for name in ("curves", "dice_plot", "difference_plot", "histograms", "spectra", "similarities"):
        monkeypatch.setattr(charts, name, lambda *_, **__: b"")
