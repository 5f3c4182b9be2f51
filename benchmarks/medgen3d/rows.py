"""The rows of table E1: with what settings each generator is fitted, how it draws, and what that costs.

Takes a :class:`Bench`; leaves, below its work folder, for each row

    ROW/fit/              run folder of the fit; vid2vid and repainted use that of medgen3d
    ROW/drawn/            a cohort, or for slice_ddpm VIEW.npy, (slices, H, W) in [0, 1]
    ROW/cost.json         processor seconds, and peak memory, of fitting and of drawing
    ROW/seconds.jsonl     a line per draw, seconds of the processor

    row          draws                    from
    slice_ddpm   slices of three views    three 2D models, blind to each other
    alpha_wgan   images                   3D-alpha-WGAN
    vid2vid      pairs                    medgen3d before its refiner, the same draws
    medgen3d     pairs                    MedGen3D
    repainted    pairs                    medgen3d's last two steps on the real labels of held-out cases
    joint_ldm    pairs                    the joint model, without conditions

Every fit and every draw has a process of its own, so that peak memory is its own; both resume.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import voxpair
from voxpair import stages
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.geometry import Geometry
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.console import ConsoleProgress
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.run import RunFolder, atomic_path, derive_seed, read_json, read_log, write_json
from voxpair.core.settings import Settings, merge, override
from voxpair.generators import generator_class
from voxpair.generators.fitting import Origin
from voxpair.generators.medgen3d.baselines import (
    AlphaWGANSettings,
    SliceDDPM,
    SliceDDPMSettings,
    fit_alpha_wgan,
    fit_slice_ddpm,
    make_alpha_wgan,
)
from voxpair.generators.medgen3d.generator import MedGen3DSettings
from voxpair.generators.medgen3d.image_sequence import make_image_sequence
from voxpair.generators.medgen3d.refiner import make_refiner
from voxpair.generators.medgen3d.views import AXES
from voxpair.stages.claims import claim, finish, finished
from voxpair.training.state import load_weights, save_weights, sha256

ROWS = ("slice_ddpm", "alpha_wgan", "vid2vid", "medgen3d", "repainted", "joint_ldm")
FITTED_AS = {"vid2vid": "medgen3d", "repainted": "medgen3d"}
UNUSED = {"vid2vid": "refiner", "repainted": "mask_sequence"}
"""The step of MedGen3D's fit that these rows do without."""
SLICES = 8
"""Slices of each view that a case is judged by, and that stand for a case where there are only slices."""

_UNIT_LOOP = {"updates": 4, "batch_size": 2, "warmup": 0, "precision": "32-true"}
BASELINES = {
    "unit": {
        "slice_ddpm": {
            "diffusion": {"channels": [8, 8], "attention": [False, False], "head_channels": 8, "loop": _UNIT_LOOP},
            "steps": 3,
        },
        "alpha_wgan": {"code_length": 8, "channels": [4, 8], "code_width": 8, "loop": _UNIT_LOOP},
    },
    "demo": {
        "slice_ddpm": {"diffusion": {"prediction": "v", "loop": {"updates": 1400, "batch_size": 4, "ema": 0.99}}},
        "alpha_wgan": {"channels": [16, 32, 64], "loop": {"updates": 2300, "ema": 0.99}},
    },
}
"""Settings of the baselines by preset, the defaults elsewhere; those of demo take as long to fit as MedGen3D's."""


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    Args:
        work: holds ``cohort/``, the real cases on the grid with their split, and everything that is made.
        preset: of grid, networks and fits.
        on_grid: ``key=value`` over the preset's preprocessing, of all rows and the judge.
        assignments: ``ROW.key=value`` or ``judge.key=value`` over the preset.
        count: cases drawn for every row but repainted.
    """

    work: Path
    preset: str
    on_grid: tuple[str, ...]
    assignments: tuple[str, ...]
    count: int
    seed: int = 0

    @property
    def cohort(self) -> Cohort:
        """The real training and validation cases; a test set stays unseen."""
        whole = Cohort.open(self.work / "cohort")
        return replace(whole, records=tuple(one for one in whole.records if one.split in ("train", "val")))

    @property
    def preprocess(self) -> PreprocessSettings:
        return override(voxpair.plan(self.preset).generator.preprocess, self.on_grid)

    def plan(self, generator: str = "joint_ldm") -> voxpair.Plan:
        """Return the preset on the grid of this bench; no generator is given conditions."""
        on_grid = {"preprocess": self.preprocess.model_dump()}
        parts = {"generator": dict(on_grid), "segmentation": dict(on_grid)}
        if generator == "joint_ldm":
            parts["generator"]["conditions"] = {"columns": []}
        return voxpair.plan(self.preset, parts, generator=generator)

    def settings(self, row: str) -> Settings:
        """Return the settings that ``row``, or the judge, is fitted with."""
        row = FITTED_AS.get(row, row)
        sizes = BASELINES.get(self.preset, {})
        if row == "judge":
            found = self.plan().segmentation
        elif row in ("slice_ddpm", "alpha_wgan"):
            plain = SliceDDPMSettings() if row == "slice_ddpm" else AlphaWGANSettings()
            found = merge(plain, sizes.get(row, {}), source=f"baselines of {self.preset}")
        else:
            found = self.plan(row).generator
        mine = [text.removeprefix(f"{row}.") for text in self.assignments if text.startswith(f"{row}.")]
        return override(found, mine)

    def session(self, progress: ConsoleProgress) -> stages.Session:
        return stages.Session(seed=self.seed, progress=progress, cache=self.work / "prepared")


def make(bench: Bench, row: str) -> Path:
    """Fit and draw; return the folder of what was drawn. What is finished is left alone."""
    fitted = FITTED_AS.get(row, row)
    if not finished(bench.work / fitted / "fit"):
        _in_own_process(_fit, bench, fitted, cost=bench.work / fitted / "cost.json")
    elif fitted_with(bench, fitted) != bench.settings(fitted).model_dump(mode="json"):
        raise InputError(f"{bench.work / fitted} was fitted with other settings; take another --work or name")
    folder = bench.work / row / "drawn"
    if not _is_drawn(bench, row):
        _in_own_process(_draw, bench, row, cost=bench.work / row / "cost.json")
    return folder


def fitted_with(bench: Bench, row: str) -> dict[str, Any]:
    """Return the settings that a fit was begun with; ``row`` is a generator of its own, or the judge."""
    return read_json(bench.work / row / ("" if row == "judge" else "fit") / "stage.json")["settings"]


def costs(bench: Bench, row: str) -> dict[str, Any]:
    """Return updates by step; of fit and draw peak memory and processor seconds, without those of runs broken off."""
    fitted = bench.work / FITTED_AS.get(row, row)
    baseline = row in ("slice_ddpm", "alpha_wgan")
    names = ["."] if baseline else generator_class(fitted.name).steps
    steps = {}
    for name in names:
        if name != UNUSED.get(row):
            last = read_log(fitted / "fit" / name / "metrics.jsonl")[-1]
            steps[row if baseline else name] = {"updates": last["update"]}
    draws = [draw["seconds"] for draw in read_log(bench.work / row / "seconds.jsonl")]
    return {
        "fit": {"shared_with": FITTED_AS.get(row), "steps": steps, **read_json(fitted / "cost.json")["fit"]},
        "draw": {
            "processor_seconds_per_case": round(float(np.median(draws)), 3),
            **read_json(bench.work / row / "cost.json")["draw"],
        },
    }


def _in_own_process(work: Callable[[Bench, str], None], bench: Bench, row: str, *, cost: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds, peak_gib = pool.submit(_measured, work, bench, row).result()
    found = read_json(cost) if cost.exists() else {}
    name = work.__name__.strip("_")
    before = found.get(name, {"processor_seconds": 0.0, "peak_memory_gib": 0.0})
    found[name] = {
        "processor_seconds": round(before["processor_seconds"] + seconds, 1),
        "peak_memory_gib": max(before["peak_memory_gib"], peak_gib),
    }
    write_json(cost, found)


def _measured(work: Callable[[Bench, str], None], bench: Bench, row: str) -> tuple[float, float]:
    """Return what ``work`` took of the processor, and the largest memory of this process in GiB."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(bench, row)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's peak
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, round(peak_kib / 2**20, 2)


def _end_with_parent() -> None:
    """Leave no fit behind that would write beside the one that resumes it."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _fit(bench: Bench, row: str) -> None:
    with ConsoleProgress() as progress:
        session, settings, folder = bench.session(progress), bench.settings(row), bench.work / row / "fit"
        if row not in ("slice_ddpm", "alpha_wgan"):
            stages.fit(bench.cohort, folder, settings, session, generator=row)
            return
        with claim(folder, "baseline", settings, session, {"cohort": bench.cohort.digest(), "row": row}) as run:
            fit = fit_slice_ddpm if row == "slice_ddpm" else fit_alpha_wgan
            save_weights(folder / "weights.safetensors", fit(_training(bench, run), settings, run))
            finish(folder)


def _training(bench: Bench, run: RunFolder) -> PreparedCohort:
    cohort = bench.cohort
    preprocessor = Preprocessor(bench.preprocess, cohort.label_table, cohort.modality)
    return PreparedCohort.build(cohort.split("train"), preprocessor, run.cache, run.progress)


def _is_drawn(bench: Bench, row: str) -> bool:
    folder = bench.work / row / "drawn"
    if row == "slice_ddpm":
        files = [folder / f"{view}.npy" for view in AXES]
        return all(file.exists() and len(np.load(file, mmap_mode="r")) >= bench.count * SLICES for file in files)
    return (folder / "dataset.json").exists() and len(Cohort.open(folder)) >= _wanted(bench, row)


def _wanted(bench: Bench, row: str) -> int:
    return len(bench.cohort.split("val")) if row == "repainted" else bench.count


def _draw(bench: Bench, row: str) -> None:
    seconds = bench.work / row / "seconds.jsonl"
    seconds.parent.mkdir(exist_ok=True)
    with ConsoleProgress() as progress, seconds.open("a", encoding="utf-8") as log:
        device = stages.resolve_device("auto")
        if row == "slice_ddpm":
            for took in _draw_slices(bench, device, progress):
                log.write(json.dumps({"seconds": round(took, 4)}) + "\n")
            return
        draw, weights = _drawer(bench, row, device)
        cohort, count = bench.cohort, _wanted(bench, row)
        with claim(bench.work / row / "drawn", "sample", None, bench.session(progress), {"weights": weights}) as run:
            whole = (run.path / "dataset.json").exists()
            writer = (
                CohortWriter.reopen(run.path) if whole else CohortWriter(run.path, cohort.label_table, cohort.modality)
            )
            progress.start(row, count, len(writer))
            for index in range(len(writer), count):
                began = time.process_time()
                case = draw(index)
                log.write(json.dumps({"case": case.name, "seconds": round(time.process_time() - began, 4)}) + "\n")
                writer.add(case)
                progress.advance()
            writer.finish(manifest={"row": row, "weights": weights, "seed": bench.seed})


def _draw_slices(bench: Bench, device: str, progress: ConsoleProgress) -> Iterator[float]:
    """Write the slices of every view; yield the seconds that the slices standing for one case took, all views."""
    settings = bench.settings("slice_ddpm")
    model = SliceDDPM(settings)
    load_weights(bench.work / "slice_ddpm/fit/weights.safetensors", model)
    model.to(device).eval()
    folder, grid = bench.work / "slice_ddpm/drawn", bench.preprocess.grid
    folder.mkdir(exist_ok=True)
    progress.start("slice_ddpm", len(AXES))
    began, count = time.process_time(), bench.count * SLICES
    for view, axis in AXES.items():
        size = tuple(length for other, length in enumerate(grid) if other != axis)
        made = model.sample(view, size, count, bench.seed)
        with atomic_path(folder / f"{view}.npy") as temporary:
            np.save(temporary, made)
        progress.advance()
    yield (time.process_time() - began) / bench.count


def _drawer(bench: Bench, row: str, device: str) -> tuple[Callable[[int], Case], str]:
    """Return what draws case ``index``, and the digest of the weights behind it."""
    fit = bench.work / FITTED_AS.get(row, row) / "fit"
    if row == "alpha_wgan":
        return _draw_volume(bench, fit, device), sha256(fit / "weights.safetensors")
    if row == "repainted":
        return _repaint(bench, fit, device), read_json(fit / "model/generator.json")["digest"]
    model = generator_class(FITTED_AS.get(row, row)).load(fit / "model", device=device)
    if row == "vid2vid":
        model.settings = override(model.settings, ["sampling.refined=false"])
    return lambda index: next(model.sample(index + 1, seed=bench.seed, first=index)), model.digest


def _draw_volume(bench: Bench, fit: Path, device: str) -> Callable[[int], Case]:
    model = make_alpha_wgan(bench.settings("alpha_wgan"), bench.preprocess.grid)
    load_weights(fit / "weights.safetensors", model)
    model.to(device).eval()
    training = _training(bench, RunFolder(fit, cache=bench.work / "prepared"))
    origin = asdict(Origin.of(training))
    del origin["training_patients"]
    geometry = Geometry.synthetic(model.shape, **origin)
    preprocessor = Preprocessor(bench.preprocess, bench.cohort.label_table, bench.cohort.modality)

    def draw(index: int) -> Case:
        name = f"synthetic_{index:05d}"
        image = model.sample(derive_seed(bench.seed, index))
        return preprocessor.restore(image, None, geometry, name=name, patient=name, source="synthetic")

    return draw


def painter_and_refiner(fit: Path, settings: MedGen3DSettings, classes: int, device: str) -> tuple[Any, Any]:
    """Return the last two steps of the finished MedGen3D in a run folder."""
    painter, refiner = make_image_sequence(settings.image_sequence, classes), make_refiner(settings.refiner, classes)
    for step, network in (("image_sequence", painter), ("refiner", refiner)):
        load_weights(fit / f"model/{step}.safetensors", network)
        network.to(device).eval()
    return painter, refiner


def _repaint(bench: Bench, fit: Path, device: str) -> Callable[[int], Case]:
    """Return what paints the real labels of held-out case ``index``: painter and refiner, no label model."""
    settings, held_out = bench.settings("medgen3d"), bench.cohort.split("val")
    painter, refiner = painter_and_refiner(fit, settings, held_out.label_table.classes, device)
    preprocessor = Preprocessor(bench.preprocess, held_out.label_table, held_out.modality)
    restore = partial(preprocessor.restore, source="synthetic")

    def draw(index: int) -> Case:
        record = held_out.records[index]
        prepared = preprocessor.forward(held_out.read(record.name))
        labels, seed = prepared.labels, derive_seed("repaint", bench.seed, index)
        image = refiner.refine(painter.paint(labels, seed), labels, seed, settings.sampling.refiner)
        return restore(image, labels, prepared.geometry, name=record.name, patient=record.patient)

    return draw
