"""Where is the gain lost between a real pair and a synthetic one? A ladder of made pairs, one imperfection a rung.

    python benchmarks/hypotheses/ladder.py hippocampus-16 COHORT GENERATOR --preset hippocampus --labelled 16 \
        --seeds 3 --work RUNS

All segmenters see the same few real cases, half of every batch until the last part, and get equal updates; the other
half comes from the other training cases, by rung:

    none        nobody: real cases alone
    real        those cases as they are: what perfect pairs of other patients would be worth
    predicted   their images, with the labels that "none" (first seed) predicts
    images      their images through the autoencoder and back, with their true labels: what its texture costs
    rebuilt     images and labels through the autoencoder and back: all that a sample can hope for
    sampled     as many pairs drawn from the generator
    warped      the few real images, bent onto the others' labels (``warping``): what other shapes alone are worth

GENERATOR is a finished fit of ``voxpair fit`` on all training cases. Judged on the held-out cases: a setting that is
chosen by looking at a ladder has seen them. Writes ``benchmarks/hypotheses/ladder-NAME.json`` after each seed; calling
it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from judging import judged, provenance, table
from warping import warped

import voxpair
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.preprocess import Preprocessor
from voxpair.console import ConsoleProgress
from voxpair.core.case import Case
from voxpair.core.run import read_json, write_json
from voxpair.core.settings import override
from voxpair.segmentation.segmenter import SegmenterSettings

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("cohort", type=Path, help="split already")
    parser.add_argument("generator", type=Path, help="run folder of a generator fitted on all its training cases")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--labelled", type=int, required=True, help="real cases: the first of the training split")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rungs", nargs="*", default=["none", "real", "predicted", "images", "rebuilt", "sampled"])
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="KEY=VALUE")
    given = parser.parse_args()
    cohort = voxpair.Cohort.open(given.cohort)
    train, folder = cohort.split("train").labelled(), given.work / given.name
    others = replace(train, records=train.records[given.labelled :])
    held_out = "test" if cohort.split_counts.get("test") else "val"
    strangers = tuple(record for record in cohort.records if record.split == held_out)
    few = replace(cohort, records=(*train.records[: given.labelled], *strangers))
    settings = override(voxpair.plan(given.preset).segmentation, given.assignments)
    evaluated: dict[str, list[Path]] = {rung: [] for rung in given.rungs}
    with ConsoleProgress() as progress:
        for seed in range(given.seeds):
            for rung in given.rungs:
                session = voxpair.Session(seed=seed, progress=progress, cache=given.work / "prepared")
                made = pairs(rung, few, others, given.generator, settings, folder, replace(session, seed=0))
                place = folder / rung / f"seed{seed}"
                evaluated[rung].append(judged([few, *made], settings, place, session, held_out))
            collect(given, evaluated)


def pairs(
    rung: str,
    few: Cohort,
    others: Cohort,
    generator: Path,
    settings: SegmenterSettings,
    folder: Path,
    session: voxpair.Session,
) -> list[Cohort]:
    """Return the made pairs of a rung, as no cohort or one; they are written once."""

    def rebuilt() -> Cohort:
        return voxpair.reconstruct(generator, others, folder / "rebuilt/pairs", session)

    def images() -> Iterable[Case]:
        known = rebuilt()
        return (replace(known.read(case.name), labels=case.labels) for case in others)

    def bent() -> Iterable[Case]:
        preprocessor = Preprocessor(settings.preprocess, others.label_table, others.modality)
        return warped(few.split("train"), others, preprocessor)

    unchanged = (replace(case, source="synthetic") for case in others)
    make: dict[str, Callable[[], list[Cohort]]] = {
        "none": list,
        "real": lambda: [written(unchanged, others, folder / "real/pairs")],
        "predicted": lambda: [
            voxpair.segment_predict(folder / "none/seed0/segmenter", others, folder / "predicted/pairs", session)
        ],
        "images": lambda: [written(images(), others, folder / "images/pairs")],
        "rebuilt": lambda: [rebuilt()],
        "warped": lambda: [written(bent(), others, folder / "warped/pairs")],
        "sampled": lambda: [voxpair.sample(generator, folder / "sampled/pairs", len(others), session)],
    }
    return make[rung]()


def written(cases: Iterable[Case], others: Cohort, folder: Path) -> Cohort:
    if (folder / "manifest.json").exists():
        return Cohort.open(folder)
    writer = CohortWriter(folder, others.label_table, others.modality)
    for case in cases:
        if not writer.has(case.name):
            writer.add(case)
    return writer.finish(manifest={"training_patients": sorted(others.patients)})


def collect(given: argparse.Namespace, evaluated: dict[str, list[Path]]) -> None:
    words = [given.name, "COHORT", "GENERATOR", "--work", "RUNS", "--preset", given.preset]
    words += ["--labelled", str(given.labelled), "--seeds", str(given.seeds), "--rungs", *given.rungs]
    words += [word for text in given.assignments for word in ("--set", text)]
    reconstruction = given.generator / "autoencoder/reconstruction.json"
    result = {
        **provenance(f"python benchmarks/hypotheses/ladder.py {shlex.join(words)}"),
        **table(evaluated, given.work / given.name),
        "reconstruction": read_json(reconstruction) if reconstruction.exists() else None,
    }
    path = HERE / f"ladder-{given.name}.json"
    write_json(path, result)
    print(path)


if __name__ == "__main__":
    main()
