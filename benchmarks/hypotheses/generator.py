"""Does one change to the joint generator give better pairs? The same numbers of updates, one judge.

    python benchmarks/hypotheses/generator.py linear-denoiser COHORT --preset demo --samples 32 --work RUNS \
        --variant diffusion.trust=4 --variant diffusion.trust=null,diffusion.shift_scale=1.4

The judge is a segmenter fitted on the real training cases alone. How far it agrees with the labels of synthetic pairs
says whether their images show what their labels claim; its Dice on the held-out real cases says how far it could agree.
Beside it stand the reconstruction of held-out cases, and the error on their latents at the same times and noise.
Writes ``benchmarks/hypotheses/NAME.json`` after each variant; calling it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import torch
from judging import provenance

import voxpair
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.console import ConsoleProgress
from voxpair.core.run import RunFolder, read_json, write_json
from voxpair.core.settings import override
from voxpair.diffusion.process import RectifiedFlow
from voxpair.generators.joint_ldm.generator import JointLDM
from voxpair.generators.joint_ldm.latents import Latents

HERE = Path(__file__).parent
TIMES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("cohort", type=Path, help="split already, with validation cases")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--variant", action="append", required=True, metavar="KEY=VALUE[,KEY=VALUE]")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE")
    given = parser.parse_args()
    plan = voxpair.plan(given.preset, None, given.assignments)
    folder = given.work / given.name
    with ConsoleProgress() as progress:
        session = voxpair.Session(seed=0, progress=progress, cache=given.work / "prepared")
        judge = voxpair.segment_fit([given.cohort], folder / "judge", plan.segmentation, session)
        found = {"real": agreement(judge, given.cohort, folder / "real", session, "val")}
        for variant in given.variant:
            settings = override(plan.generator, variant.split(","))
            place = folder / variant
            fitted = voxpair.fit(given.cohort, place / "generator", settings, session)
            voxpair.sample(fitted, place / "pairs", given.samples, session)
            found[variant] = agreement(judge, place / "pairs", place, session, None)
            found[variant]["reconstruction"] = read_json(fitted / "autoencoder" / "reconstruction.json")
            found[variant]["error_on_held_out_latents"] = errors(fitted, given.cohort, place / "held_out", session)
            write_json(HERE / f"{given.name}.json", provenance(command(given)) | {"found": found})
    print(HERE / f"{given.name}.json")


def agreement(judge: Path, cohort: Path, folder: Path, session: voxpair.Session, split: str | None) -> dict[str, Any]:
    """Return the judge's Dice against the labels of ``cohort``: mean with its interval, and per structure."""
    predicted = voxpair.segment_predict(judge, cohort, folder / "judged", session, split=split)
    voxpair.evaluate_masks(predicted, cohort, folder / "agreement", session)
    summary = read_json(folder / "agreement" / "masks.json")
    return {
        "dice": summary["dice"],
        "structures": {name: value["dice"]["mean"] for name, value in summary["structures"].items()},
    }


def errors(fitted: Path, cohort: Path, folder: Path, session: voxpair.Session) -> dict[str, float]:
    """Return the mean squared error of the estimated clean latents of the validation cases, by time of the flow."""
    model = JointLDM.load(fitted / "model", device="cpu")
    autoencoder, denoiser, facts = model._autoencoder, model._denoiser, model._facts
    assert isinstance(denoiser.process, RectifiedFlow)
    prepared = PreparedCohort.build(
        voxpair.Cohort.open(cohort).split("val"), model.preprocessor, session.cache, session.progress
    )
    once = model.settings.latents.model_copy(update={"copies": 1})
    latents = Latents.encode(autoencoder, prepared, once, RunFolder(folder, seed=0, progress=session.progress))
    clean = torch.stack([facts.normalisation.forward(latents.read(i, 0)[0][None])[0] for i in range(len(latents))])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    condition = torch.zeros(len(clean), facts.conditions.length + model.settings.latents.vector_length)
    result = {}
    with torch.inference_mode():
        for value in TIMES:
            time = torch.full((len(clean),), value)
            noisy = denoiser.process.corrupt(clean, noise, time)
            estimate, _ = denoiser.process.estimates(noisy, denoiser(noisy, time, condition), time)
            result[f"{value:g}"] = float((estimate - clean).square().mean())
    return result


def command(given: argparse.Namespace) -> str:
    words = [given.name, "COHORT", "--work", "RUNS", "--preset", given.preset, "--samples", str(given.samples)]
    words += [word for name in given.variant for word in ("--variant", name)]
    words += [word for text in given.assignments for word in ("--set", text)]
    return f"python benchmarks/hypotheses/generator.py {shlex.join(words)}"


if __name__ == "__main__":
    main()
