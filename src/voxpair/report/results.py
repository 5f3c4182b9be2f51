"""Reads the result files of a run folder; the page's docstring is the contract of those files.

Whatever is absent comes back as None or empty, and the page says so; whatever is there must be readable.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from voxpair.core.errors import InputError
from voxpair.core.labels import PALETTE
from voxpair.core.run import read_json, read_log

PREVIEWS = {
    "real": "previews/real.npz",
    "synthetic": "previews/synthetic.npz",
    "rejected": "synthetic/rejected.npz",
    "predictions": "previews/predictions.npz",
}
METRICS = ("dice", "hd95_mm", "assd_mm", "nsd", "volume_error_ml")
_ORDER = ("baseline", "medical_diffusion", "ours")  # as in the paper; other protocols follow by name
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Preview:
    """Volumes of one ``.npz``: name to arrays of shape (X, Y, Z), RAS+.

    ``images`` are in [0, 1]; ``labels`` are class indices; ``predictions`` (protocol to name to class indices) are
    there for ``predictions.npz`` only, ``nearest`` (the most similar real image) for ``copies.npz`` only.
    """

    images: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    predictions: Mapping[str, Mapping[str, np.ndarray]]
    nearest: Mapping[str, np.ndarray]
    spacing_mm: Mapping[str, tuple[float, ...]]
    intensity_range: tuple[float, float] | None


@dataclass(frozen=True)
class Evaluation:
    """``summary`` is a protocol's in ``comparison.json``, pooled over its seeds; else ``masks.json`` of the first seed.

    ``seeds`` counts those that are there, which may be more than the ``seeds`` of the summary.
    """

    summary: Mapping[str, Any]
    seeds: int = 1


@dataclass(frozen=True)
class Structure:
    """A structure and the colour it is shown in."""

    name: str
    colour: str


@dataclass(frozen=True)
class Results:
    """Everything a report can show."""

    folder: Path
    summary: Mapping[str, Any]
    curves: Mapping[str, Sequence[Mapping[str, Any]]]
    segmenter_curves: Mapping[str, Sequence[Mapping[str, Any]]]
    reconstruction: Mapping[str, Any] | None
    evaluations: Mapping[str, Evaluation]
    comparisons: Sequence[Mapping[str, Any]]
    pairs: Mapping[str, Any] | None
    pair_curves: Mapping[str, Any] | None
    audit: Mapping[str, Any] | None
    copies: Preview | None
    selection: Mapping[str, Any] | None
    previews: Mapping[str, Preview]
    settings: str | None
    timings: Mapping[str, float] | None
    study: Sequence[Mapping[str, Any]]

    @property
    def structures(self) -> list[Structure]:
        """Structures in order of their value, so that class index i is the i-th; colours that are none are replaced."""
        table = self.summary.get("cohort", {}).get("label_table", {})
        ordered = sorted(table.items(), key=lambda item: item[1][0])
        return [
            Structure(name, colour if _COLOUR.fullmatch(str(colour)) else PALETTE[i % len(PALETTE)])
            for i, (name, (_, colour)) in enumerate(ordered)
        ]


def read_results(folder: Path) -> Results:
    """Read what ``folder`` holds.

    Raises:
        InputError: there is no such folder, it holds no result, or a file in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}")
    timings = _optional_json(folder / "timings.json")
    summary = _optional_json(folder / "summary.json") or {}
    comparison = _optional_json(folder / "evaluation/comparison.json") or {}
    results = Results(
        folder=folder,
        summary=summary,
        curves=_curves(folder),
        segmenter_curves={path.name: log for path in _children(folder / "segmenters") if (log := _log(path))},
        reconstruction=_optional_json(folder / "generator/autoencoder/reconstruction.json"),
        evaluations={
            path.name: _evaluation(path, comparison.get("protocols", {}))
            for path in _children(folder / "evaluation")
            if (path / "masks.json").is_file()
        },
        comparisons=comparison.get("comparisons", []),
        pairs=_complete_json(folder / "pairs/pairs.json", "measures", "cohorts", "extractor"),
        pair_curves=_complete_json(folder / "pairs/curves.json", "histograms", "noise_power"),
        audit=_complete_json(folder / "audit/audit.json", "copies", "synthetic", "patients", "control", "detectors"),
        copies=_preview(path, nearest=True) if (path := folder / "audit/copies.npz").is_file() else None,
        selection=_complete_json(folder / "synthetic/selection.json", "drawn", "accepted", "rules", "rejected"),
        previews={name: _preview(folder / path) for name, path in PREVIEWS.items() if (folder / path).is_file()},
        settings=_settings(folder / "settings.yaml", summary),
        timings=timings,
        study=(_complete_json(folder / "study.json", "rows") or {}).get("rows", []),
    )
    if not any(found for name, found in vars(results).items() if name not in ("folder", "settings", "timings")):
        raise InputError(
            f"{folder} holds no result that a report can show; expected the folder of 'voxpair run', 'demo' or 'study'"
        )
    return results


def _children(folder: Path) -> list[Path]:
    """Return sub-folders, the protocols of the paper first."""
    if not folder.is_dir():
        return []
    rank = {name: i for i, name in enumerate(_ORDER)}
    found = [path for path in folder.iterdir() if path.is_dir()]
    return sorted(found, key=lambda path: (rank.get(path.name, len(rank)), path.name))


def _optional_json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _complete_json(path: Path, *keys: str) -> Any:
    """Read a file that may be absent, but not half there."""
    found = _optional_json(path)
    absent = [] if found is None else [key for key in keys if key not in found]
    if absent:
        raise InputError(f"{path} lacks {', '.join(absent)}; write it again")
    return found


def _settings(path: Path, summary: Mapping[str, Any]) -> str | None:
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return yaml.safe_dump(summary["settings"], sort_keys=False) if "settings" in summary else None


def _curves(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the logs of every step of the generator, whatever its steps are, and of the pretraining."""
    steps = sorted(path.parent for path in (folder / "generator").rglob("metrics.jsonl"))
    titles = {step: " ".join(step.relative_to(folder / "generator").parts).replace("_", " ") for step in steps}
    titles[folder / "pretraining"] = "self-supervised pretraining"
    return {title[:1].upper() + title[1:]: log for place, title in titles.items() if (log := _log(place))}


def _log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return read_log(path) if path.is_file() else []


def _evaluation(folder: Path, pooled: Mapping[str, Any]) -> Evaluation:
    of_first_seed = _complete_json(folder / "masks.json", "dice", "structures", "cases", "patients", "seeds")
    return Evaluation(pooled.get(folder.name, of_first_seed), seeds=1 + len(list(folder.glob("*/masks.json"))))


def _preview(path: Path, *, nearest: bool = False) -> Preview:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"]]
            protocols = [str(name) for name in arrays["protocols"]] if "protocols" in arrays else []
            limits = arrays["intensity_range"].tolist() if "intensity_range" in arrays else None
            return Preview(
                images={name: arrays[f"{name}_image"] for name in names},
                labels={name: arrays[f"{name}_labels"] for name in names},
                predictions={p: {name: arrays[f"{name}_{p}"] for name in names} for p in protocols},
                nearest={name: arrays[f"{name}_nearest"] for name in names} if nearest else {},
                spacing_mm={name: tuple(row) for name, row in zip(names, arrays["spacing"].tolist(), strict=True)},
                intensity_range=tuple(limits) if limits else None,
            )
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the preview {path}: {error}; delete it or write it again") from None
