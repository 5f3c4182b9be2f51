"""What is a synthetic cohort worth? One pass over each cohort, then every measure beside its real-against-real floor.

    pairs.json    extractor, cohorts, warnings, measures (see ``measures``)
    pairs.csv     a line per case: what was found in it
    curves.json   histograms and noise power spectra, for a picture

Cases are read one at a time, and what is kept of each is small, so memory does not grow with the size of a volume and
hardly with the number of cases.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.interfaces import Extractor
from voxpair.core.run import SILENT, Progress, atomic_path, make_folder, versions, write_json
from voxpair.evaluation.pairs import alignment, diversity, fidelity, lpips, plausibility, texture
from voxpair.evaluation.pairs.edges import edges_of
from voxpair.evaluation.pairs.measures import FEWEST, Measure
from voxpair.evaluation.pairs.perceptual import FeatureNetwork, PerceptualFeatures

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort

LARGEST_SPACING_RATIO = 1.02
"""Of voxels, synthetic to real, beyond which ``warnings`` names them."""

Labeller = Callable[[Case], Case]
"""A segmenter that has learnt from real cases only: case -> the same case with its labels."""


@dataclass(frozen=True)
class Facts:
    """What is kept of one case."""

    name: str
    source: str
    split: str
    spacing_mm: tuple[float, float, float]
    fidelity: fidelity.FidelityFacts
    thumbnail: np.ndarray
    texture: texture.TextureFacts
    plausibility: plausibility.AnatomyFacts
    alignment: alignment.AlignmentFacts
    slices: np.ndarray | None


@dataclass(frozen=True)
class Judges:
    """Who looks at a case.

    Args:
        extractor: what fidelity is measured with.
        labeller: what the agreement of image and labels is measured with; None leaves it out.
        network: of others, from a file; takes the extractor's place, and adds LPIPS where that is defined for it.
    """

    extractor: Extractor
    labeller: Labeller | None = None
    network: FeatureNetwork | None = None

    @property
    def has_lpips(self) -> bool:
        return self.network is not None and bool(self.network.architecture.taps)

    def extractor_for(self, modality: str) -> Extractor:
        return PerceptualFeatures(self.network, modality) if self.network else self.extractor


def evaluate_pairs(
    synthetic: Cohort,
    real: Cohort,
    out: Path,
    *,
    judges: Judges,
    seed: int = 0,
    progress: Progress = SILENT,
) -> list[Measure]:
    """Measure annotated synthetic against annotated real cases; write the three files into ``out``.

    The floor of alignment comes from real cases outside split "train": the labeller knows the others by heart.

    Raises:
        InputError: other label tables or modalities, or no annotated case on one side.
    """
    synthetic, real = synthetic.labelled(), real.labelled()
    _check(synthetic, real)
    made = _describe(synthetic, judges, progress, "synthetic cases")
    there = _describe(real, judges, progress, "real cases")
    unseen = [facts for facts in there if facts.split != "train"]
    patients = [facts.plausibility.patient for facts in there]
    measures = [
        *fidelity.compare([f.fidelity for f in made], [f.fidelity for f in there], seed, patients=patients),
        *diversity.compare([f.thumbnail for f in made], [f.thumbnail for f in there], seed, patients=patients),
        *texture.compare([f.texture for f in made], [f.texture for f in there], seed),
        *plausibility.compare([f.plausibility for f in made], [f.plausibility for f in there], seed),
        *alignment.compare([f.alignment for f in made], [f.alignment for f in unseen], seed),
    ]
    if judges.has_lpips:
        slices = ([facts.slices for facts in side] for side in (made, there))
        measures.append(lpips.compare(*slices, judges.network, seed, patients=patients))
    extractor = judges.extractor_for(synthetic.modality)
    make_folder(out)
    _write_rows(out / "pairs.csv", [*made, *there])
    write_json(out / "curves.json", texture.curves([f.texture for f in made], [f.texture for f in there]))
    content = {
        "extractor": {"name": extractor.name, "digest": extractor.digest},
        "cohorts": {"synthetic": {"cases": len(made)}, "real": {"cases": len(there), "unseen": len(unseen)}},
        "warnings": _warnings(made, there, len(unseen), judges),
        "measures": [asdict(measure) for measure in measures],
        "seed": seed,
        "versions": versions(),
    }
    write_json(out / "pairs.json", content)
    return measures


def as_text(measures: Sequence[Measure]) -> str:
    """Return the measures that are not about a single structure or view, a line each, for a terminal."""
    lines = [f"{'measure':<34}{'synthetic':>11}{'real':>11}   good is"]
    for found in measures:
        if found.structure is None and found.view is None:
            value, floor = ("-" if number is None else f"{number:.4g}" for number in (found.value, found.floor))
            good = "near real" if found.better == "floor" else found.better
            lines.append(f"{found.group + ' ' + found.name:<34}{value:>11}{floor:>11}   {good}")
    return "\n".join(lines)


def _check(synthetic: Cohort, real: Cohort) -> None:
    for cohort, what in ((synthetic, "synthetic"), (real, "real")):
        if not len(cohort):
            raise InputError(f"{cohort.folder} ({what}) has no annotated case, so its pairs cannot be measured")
    ours, theirs = synthetic.label_table.to_mapping(), real.label_table.to_mapping()
    if ours != theirs:
        raise InputError(f"the synthetic cohort has the labels {ours}, the real one {theirs}; they must be the same")
    if synthetic.modality != real.modality:
        raise InputError(f"the synthetic cohort is {synthetic.modality}, the real one {real.modality}")


def _describe(cohort: Cohort, judges: Judges, progress: Progress, title: str) -> list[Facts]:
    progress.start(title, len(cohort))
    extractor, found = judges.extractor_for(cohort.modality), []
    for record, case in zip(cohort.records, cohort):
        predicted = judges.labeller(case).labels if judges.labeller else None
        edges = edges_of(case)
        found.append(
            Facts(
                name=case.name,
                source=case.source,
                split=record.split or "",
                spacing_mm=case.spacing_mm,
                fidelity=fidelity.describe(case, extractor),
                thumbnail=diversity.describe(case, cohort.modality),
                texture=texture.describe(case, cohort.modality, edges),
                plausibility=plausibility.describe(case),
                alignment=alignment.describe(case, predicted, edges),
                slices=lpips.describe(case, judges.network, cohort.modality) if judges.has_lpips else None,
            )
        )
        progress.advance()
    return found


def _warnings(synthetic: Sequence[Facts], real: Sequence[Facts], unseen: int, judges: Judges) -> list[str]:
    found = []
    if min(len(synthetic), len(real) // 2) < 50:
        found.append(
            f"{len(synthetic)} synthetic and {len(real)} real cases: distances between such small sets are rough; "
            "read them beside their floor only, never beside numbers of another study"
        )
    ours, theirs = (np.median([sorted(facts.spacing_mm) for facts in side], axis=0) for side in (synthetic, real))
    if np.abs(np.log(ours / theirs)).max() > np.log(LARGEST_SPACING_RATIO):
        found.append(
            f"voxels of {_size(ours)} mm, synthetic, and {_size(theirs)} mm, real: numbers of texture and alignment "
            "differ with the size of voxels alone; resample to one spacing to compare"
        )
    if judges.labeller and unseen < FEWEST:
        found.append(f"only {unseen} real cases were kept from training, so the floor of alignment is rough or absent")
    return found


def _size(spacing_mm: np.ndarray) -> str:
    return " x ".join(f"{side:.3g}" for side in spacing_mm)


def _write_rows(path: Path, facts: Sequence[Facts]) -> None:
    rows: list[Mapping[str, Any]] = [
        {"case": f.name, "source": f.source, "split": f.split, **f.plausibility.row(), **f.alignment.row()}
        for f in facts
    ]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows(rows)
