"""What the refiner does to texture, by noise level and fusion: labels of strangers, painted and refined; one JSON.

    voxpair phantom -o STRANGERS -n 12 --seed 1 --set labels=thorax --set centre=chest \
        --set "grid=[48,40,40]" --set "field_of_view_mm=[340,300,240]"
    python benchmarks/medgen3d/refining.py thorax GENERATOR STRANGERS

GENERATOR is the run folder of a finished fit of MedGen3D, STRANGERS a cohort that it has not seen. Every walk begins at
the same painted volumes. Of each, against the strangers' own images

    noise_ratio, noise_power_distance, edge_width    as in ``voxpair evaluate pairs``, over all structures
    changed        mean absolute difference from the painted volume, per cent of the intensity window
    seconds        of the processor, per volume
    power          of the noise by frequency, for the structures that are large enough

``benchmarks/medgen3d/refining-NAME.json`` names the command; real images against real ones stand beside as the floor.
It is written after every walk, and the same call goes on from there.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import painter_and_refiner

from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import PreparedCase
from voxpair.core.case import Case
from voxpair.core.run import derive_seed, read_json, versions, write_json
from voxpair.evaluation.pairs import texture
from voxpair.generators.medgen3d.generator import MedGen3D
from voxpair.generators.medgen3d.refiner import RefinerWalk

HERE = Path(__file__).parent
PAPER = RefinerWalk(start=10, steps=None, sampler="ddpm", fusion="mean", guidance=1.5)
WALKS = {
    "painted": None,
    **{
        f"{words}, level {start}, 5 steps": RefinerWalk(start=start, steps=5, fusion=fusion, guidance=1.0)
        for start in (10, 50, 100)
        for words, fusion in (("mean of three", "mean"), ("in step", "in_step"))
    },
    "paper: mean of three, level 10, every level": PAPER,
    "in step, level 10, every level": PAPER.model_copy(update={"fusion": "in_step"}),
}
MEASURES = ("noise_ratio", "noise_power_distance", "edge_width")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result, benchmarks/medgen3d/refining-NAME.json")
    parser.add_argument("generator", type=Path)
    parser.add_argument("strangers", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, strangers = MedGen3D.load(given.generator / "model", device="cpu"), Cohort.open(given.strangers)
    if shared := set(strangers.patients) & set(model.training_patients):
        sys.exit(f"{len(shared)} of the strangers are training patients, such as {min(shared)}")
    cases = list(strangers)
    prepared = [model.preprocessor.forward(case) for case in cases]
    painter, refiner = painter_and_refiner(given.generator, model.settings, model.label_table.classes, "cpu")
    painted = [painter.paint(one.labels, derive_seed("paint", index)) for index, one in enumerate(prepared)]

    def textures(images: Iterable[np.ndarray]) -> list[texture.TextureFacts]:
        found = (restored(model, image, one, case) for image, one, case in zip(images, prepared, cases))
        return [texture.describe(case, strangers.modality) for case in found]

    there = textures(one.image for one in prepared)
    path, about = HERE / f"refining-{given.name}.json", provenance(given, model, strangers)
    found = read_json(path) if path.exists() else {}
    walks = found["walks"] if all(found.get(key) == about[key] for key in ("generator", "strangers")) else {}
    for name, walk in WALKS.items():
        if name in walks:
            continue
        began = time.process_time()
        images = [
            image if walk is None else refiner.refine(image, one.labels, derive_seed("refine", index), walk)
            for index, (image, one) in enumerate(zip(painted, prepared))
        ]
        seconds = (time.process_time() - began) / len(images)
        made = textures(images)
        walks[name] = {
            "walk": walk.model_dump(mode="json") if walk else None,
            "seconds": round(seconds, 3),
            "changed": round(100 * float(np.mean([np.abs(a - b).mean() for a, b in zip(images, painted)])), 3),
            "measures": measures(made, there),
            "power": texture.curves(made, there)["noise_power"],
        }
        write_json(path, about | {"walks": walks})
        print(name, {key: one["value"] for key, one in walks[name]["measures"].items()}, flush=True)


def provenance(given: argparse.Namespace, model: MedGen3D, strangers: Cohort) -> dict[str, Any]:
    return {
        "command": f"python benchmarks/medgen3d/refining.py {given.name} GENERATOR STRANGERS",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "seeds": list(range(len(strangers))),
        "generator": {"digest": model.digest, "settings": model.settings.model_dump(mode="json")},
        "strangers": {"cases": len(strangers), "digest": strangers.digest()},
    }


def restored(model: MedGen3D, image: np.ndarray, one: PreparedCase, case: Case) -> Case:
    """Return an image on the generator's grid as a case in original units, with the labels that it was painted on."""
    facts = {"name": case.name, "patient": case.patient, "source": case.source}
    return model.preprocessor.restore(image, one.labels, one.geometry, **facts)


def measures(made: list[texture.TextureFacts], there: list[texture.TextureFacts]) -> dict[str, Any]:
    found = texture.compare(made, there)
    return {one.name: asdict(one) for one in found if one.name in MEASURES and one.structure is None}


if __name__ == "__main__":
    sys.exit(main())
