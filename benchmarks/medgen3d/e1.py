"""Table E1 of MedGen3D: fidelity and diversity of its synthetic images beside the baselines'; one JSON a data set.

    python benchmarks/medgen3d/e1.py thorax --phantom thorax --work RUNS --preset demo \
        --preprocess grid=[48,40,40]
    python benchmarks/medgen3d/e1.py brain SCANS --work RUNS --preset demo \
        --preprocess grid=[72,88,8] fit=crop_or_pad spacing_mm=[2,2,1] \
        --images '*_t1.nii.gz' --labels '*_seg.nii.gz' --label-table brain4

The second is of T1 slabs whose middle eight slices are whole. The rows are those of ``rows``. Real scans are first put
onto the grid, so that nobody is judged for resolution; the judge is one segmenter of the real training cases, and
features are those of its encoder. Fidelity is measured twice: of slices (``judging``), which every row has, and of
volumes (``voxpair evaluate pairs``), which all but the 2D DDPMs have; what needs labels has those rows alone that make
them. Times are of the processor, so that neighbours on the machine do not count. Calling it again goes on where it
stopped; ``benchmarks/medgen3d/e1-NAME.json`` is written after every row, ``RUNS/NAME/ROW/montage.png`` is to look at.

For the generator of a row: ``--set ROW.key=value``, for the judge ``--set judge.key=value``.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import judging
import numpy as np
import torch
from montage import write_montage
from rows import FITTED_AS, ROWS, SLICES, Bench, costs, fitted_with, make
from table import as_markdown

from voxpair import stages
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.geometry import Geometry
from voxpair.cohorts.preprocess import Preprocessor
from voxpair.console import ConsoleProgress
from voxpair.core.case import Case
from voxpair.core.errors import RunError
from voxpair.core.run import read_json, versions, write_json
from voxpair.core.settings import digest
from voxpair.evaluation.pairs import diversity, fidelity
from voxpair.evaluation.pairs.measures import Measure
from voxpair.generators.medgen3d.views import AXES
from voxpair.phantom.heart_cohort import PhantomSettings
from voxpair.segmentation.features import EncoderFeatures
from voxpair.segmentation.segmenter import Segmenter
from voxpair.training.state import sha256

HERE = Path(__file__).parent
CHEST_MM = (340.0, 300.0, 240.0)
KEPT_BY_STRUCTURE = ("dice", "noise_ratio")


def main() -> None:
    given = arguments()
    bench = Bench(
        given.work / given.name,
        given.preset,
        tuple(given.preprocess),
        tuple(given.assignments),
        given.count,
    )
    with ConsoleProgress() as progress:
        session = bench.session(progress)
        make_cohort(given, bench, session)
        judge = stages.segment_fit([bench.cohort], bench.work / "judge", bench.settings("judge"), session)
    for row in [row for row in ROWS if row in given.generators]:
        try:
            make(bench, row)
        except RunError as error:  # such as an autoencoder below its gate: a result, too
            write_json(bench.work / row / "row.json", {"failed": str(error)})
        else:
            measure(bench, row, judge)
        collect(given, bench)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the result, benchmarks/medgen3d/e1-NAME.json")
    parser.add_argument("source", type=Path, nargs="?", help="folder of scans, or a cohort")
    parser.add_argument("--phantom", choices=["thorax"], help="phantom chests in place of scans")
    parser.add_argument("--split", type=int, nargs=2, metavar=("TRAIN", "VAL"), help="25 5 of phantoms, else 40 10")
    for option in ("images", "labels", "label-table"):
        parser.add_argument(f"--{option}", help="as in voxpair import")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs; they resume")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--preprocess", nargs="+", default=[], metavar="KEY=VALUE", help="over the preset's")
    parser.add_argument("--count", type=int, default=50, help="pairs drawn for each row")
    parser.add_argument("--generators", nargs="+", choices=ROWS, default=[row for row in ROWS if row != "joint_ldm"])
    parser.add_argument("--set", action="append", default=[], dest="assignments", metavar="ROW.KEY=VALUE")
    given = parser.parse_args()
    if bool(given.source) == bool(given.phantom):
        parser.error("give either a folder of scans or --phantom")
    given.split = given.split or ([25, 5] if given.phantom else [40, 10])
    return given


def make_cohort(given: argparse.Namespace, bench: Bench, session: stages.Session) -> None:
    """Write the real cases on the grid to ``cohort/``, with their split."""
    if (bench.work / "cohort/dataset.json").exists():
        return
    train, val = given.split
    if given.phantom:
        settings = PhantomSettings(
            grid=bench.preprocess.grid, field_of_view_mm=CHEST_MM, labels=given.phantom, centre="chest"
        )
        source = stages.make_phantoms(bench.work / "source", train + val, settings, session)
    elif (given.source / "cases.csv").exists():
        source = Cohort.open(given.source)
    else:
        scans = stages.Scans(given.source, images=given.images, labels=given.labels, label_table=given.label_table)
        source = stages.import_scans(scans, bench.work / "source", session)
    preprocessor = Preprocessor(bench.preprocess, source.label_table, source.modality)
    writer = CohortWriter(bench.work / "cohort", source.label_table, source.modality)
    session.progress.start("real cases onto the grid", len(source), len(writer))
    for record in source.labelled().records:
        if not writer.has(record.name):
            writer.add(on_grid(source.read(record.name), preprocessor), split=record.split)
            session.progress.advance()
    cohort = writer.finish()
    if set(cohort.split_counts) == {""}:
        stages.split(cohort.folder, (train, val, 0), session)


def on_grid(case: Case, preprocessor: Preprocessor) -> Case:
    """Return a case as the generators see it: on their grid, within their window, in original units."""
    prepared = preprocessor.forward(case)
    seen = prepared.geometry
    straight = Geometry.synthetic(seen.grid, seen.spacing_mm, seen.intensity_low, seen.intensity_high)
    facts = {"name": case.name, "patient": case.patient, "source": case.source, "attributes": case.attributes}
    return preprocessor.restore(prepared.image, prepared.labels, straight, **facts)


def measure(bench: Bench, row: str, judge: Path) -> None:
    """Write ``row.json``: costs and measures of what was drawn, and the montage."""
    segmenter = Segmenter.load(judge / "model", device=stages.resolve_device("auto"))
    real, drawn = bench.cohort, bench.work / row / "drawn"
    files = [drawn / f"{view}.npy" for view in AXES]
    made = None if row == "slice_ddpm" else Cohort.open(drawn)
    content = made.digest() if made else [sha256(file) for file in files]
    inputs = digest([real.digest(), segmenter.digest, content, bench.seed])
    path = bench.work / row / "row.json"
    if path.exists() and read_json(path).get("inputs") == inputs:
        return
    noise_power: dict[str, Any] = {}
    there = [segmenter.preprocessor.forward(case) for case in real]
    ours = [segmenter.preprocessor.forward(case) for case in made] if made else []
    if made:
        slices = [judging.cut(one.image, name, bench.seed) for one, name in zip(ours, made.names)]
    else:
        whole = {view: np.load(file) for view, file in zip(AXES, files)}
        slices = [{view: found[i :: bench.count][:SLICES] for view, found in whole.items()} for i in range(bench.count)]
    real_slices = [judging.cut(one.image, name, bench.seed) for one, name in zip(there, real.names)]
    described = ([judging.describe(one, segmenter) for one in side] for side in (slices, real_slices))
    measures = judging.compare_slices(*described, bench.seed)
    if made:
        steps = ([judging.describe_steps(one.image, one.labels) for one in side] for side in (ours, there))
        measures += judging.compare_steps(*steps, bench.seed)
        if len(made.labelled()):
            out = bench.work / row / f"pairs-{inputs[:8]}"
            session = stages.Session(seed=bench.seed)
            measures += stages.evaluate_pairs(made, real, out, session, segmenter=judge)
            noise_power = read_json(out / "curves.json")["noise_power"]
        else:
            measures += of_images(made, real, segmenter, bench.seed)
    write_montage(bench.work / row / "montage.png", real, made or slices)
    write_json(
        path,
        {
            "inputs": inputs,
            "drawn": len(made) if made else {"slices_per_view": bench.count * SLICES},
            **costs(bench, row),
            "measures": [asdict(one) for one in measures if kept(one)],
            "noise_power": noise_power,
        },
    )


def of_images(made: Cohort, real: Cohort, segmenter: Segmenter, seed: int) -> list[Measure]:
    """Measure volumes without labels: what ``evaluate_pairs`` says of images alone."""
    extractor = EncoderFeatures(segmenter, "judge")
    sides = (list(made), list(real))
    features = ([fidelity.describe(case, extractor) for case in side] for side in sides)
    thumbnails = ([diversity.describe(case, real.modality) for case in side] for side in sides)
    return fidelity.compare(*features, seed) + diversity.compare(*thumbnails, seed)


def kept(found: Measure) -> bool:
    return found.structure is None or found.name in KEPT_BY_STRUCTURE


def collect(given: argparse.Namespace, bench: Bench) -> None:
    """Write the JSON of all rows that are there, and print its table."""
    paths = {row: bench.work / row / "row.json" for row in ROWS}
    cohort = bench.cohort
    result = {
        "command": f"python benchmarks/medgen3d/e1.py {shlex.join(words(given))}",
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "threads": torch.get_num_threads()},
        "versions": versions(),
        "seed": bench.seed,
        "extractor": {"name": "encoder of the judge", "digest": Segmenter.load(bench.work / "judge/model").digest},
        "cohort": {
            "modality": cohort.modality,
            "labels": list(cohort.label_table.names),
            "splits": cohort.split_counts,
            "grid": list(bench.preprocess.grid),
            "digest": cohort.digest(),
        },
        "rows": {row: read_json(path) for row, path in paths.items() if path.exists()},
        "settings": {row: fitted_with(bench, row) for row in ("judge", *fitted(paths))},
    }
    path = HERE / f"e1-{given.name}.json"
    write_json(path, result)
    print(f"{path}\n\n{as_markdown(result)}", flush=True)


def fitted(paths: dict[str, Path]) -> list[str]:
    """Return the generators behind the rows that are there."""
    return list(dict.fromkeys(FITTED_AS.get(row, row) for row, path in paths.items() if path.exists()))


def words(given: argparse.Namespace) -> list[str]:
    """Return the command as typed, without this machine's paths."""
    typed = [given.name, *(["--phantom", given.phantom] if given.phantom else ["SCANS"])]
    typed += ["--work", "RUNS", "--preset", given.preset, "--split", *map(str, given.split)]
    typed += ["--count", str(given.count), "--generators", *given.generators]
    if given.preprocess:
        typed += ["--preprocess", *given.preprocess]
    for option in ("images", "labels", "label_table"):
        if value := getattr(given, option):
            typed += [f"--{option.replace('_', '-')}", value]
    return typed + [word for text in given.assignments for word in ("--set", text)]


if __name__ == "__main__":
    sys.exit(main())
