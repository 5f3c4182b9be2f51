"""One function per verb of the command line: folders in, folders out. Everything a verb does is one call here.

Each stage claims its folder with ``stage.json``: kind, settings, inputs, seed. The same call again goes on where
it stopped, or returns at once when it had finished; a different call on the same folder is refused and told what
differs, unless ``session.overwrite`` is set.

torch is imported inside the stages that compute with it, so that the others start at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from voxpair.cohorts import doctor, layouts, splits
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.errors import InputError, RunError
from voxpair.core.run import SILENT, Progress, RunFolder, make_folder, read_json, versions, write_json, write_text
from voxpair.core.settings import Settings

if TYPE_CHECKING:
    from voxpair.evaluation.agreement import Summary
    from voxpair.phantom.heart_cohort import PhantomSettings
    from voxpair.pretraining.masked_modelling import PretrainSettings
    from voxpair.segmentation.segmenter import SegmenterSettings

BYTES_TO_START = 50_000_000
"""Less free space than this on the disk, and a stage does not begin."""


@dataclass(frozen=True)
class Session:
    """How a stage is done, as opposed to what it does.

    Args:
        seed: names all randomness.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        overwrite: replace what another call left in the output folder.
        progress: where progress is shown; nowhere by default.
    """

    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    progress: Progress = SILENT


@dataclass(frozen=True)
class Scans:
    """Scans as a user has them; the options are those of ``voxpair import``."""

    source: Path
    layout: str = "auto"
    images: str | None = None
    labels: str | None = None
    label_table: str | None = None
    modality: str | None = None


def make_phantoms(output: Path, count: int, settings: PhantomSettings, session: Session, *, workers: int = 1) -> Cohort:
    """Write a cohort of ``count`` phantom hearts."""
    from voxpair.core.labels import CARDIAC8
    from voxpair.phantom.heart_cohort import heart_cases

    run = _claim(output, "phantom", settings, session, {"count": count})
    if _finished(run.path):
        return Cohort.open(run.path)
    writer = CohortWriter(run.path, CARDIAC8, "CT")
    session.progress.start("phantom hearts", count, len(writer))
    for case in heart_cases(settings, count, session.seed, first=len(writer), workers=workers):
        writer.add(case)
        session.progress.advance()
    return writer.finish(manifest={"generator": "phantom", "seed": session.seed})


def import_scans(scans: Scans, output: Path, session: Session) -> Cohort:
    """Turn scans in any known layout into a cohort; what was done to them is said and kept in ``dataset.json``."""
    layouts.list_scans(scans.source, scans.layout, scans.images, scans.labels)  # refused before anything is claimed
    inputs = {key: str(value) for key, value in asdict(scans).items()}
    run = _claim(output, "import", None, session, inputs)
    if _finished(run.path):
        return Cohort.open(run.path)
    cohort, notes = layouts.import_scans(
        scans.source,
        run.path,
        layout=scans.layout,
        label_table=scans.label_table,
        modality=scans.modality,
        images=scans.images,
        labels=scans.labels,
        progress=session.progress,
    )
    for note in notes:
        session.progress.say(f"  {note}")
    return cohort


def check(
    cohort: Path, session: Session, *, fix: Path | None = None, output: Path | None = None
) -> list[doctor.Finding]:
    """Find what is wrong with a cohort; mend what is safe on a copy at ``fix``; list the findings in ``output``."""
    findings = doctor.check(cohort, progress=session.progress)
    if output is not None:
        doctor.write_findings(findings, output)
    if fix is not None:
        for line in doctor.fix(cohort, fix, progress=session.progress, overwrite=session.overwrite):
            session.progress.say(f"  {line}")
    return findings


def split(cohort: Path, shares: tuple[float, float, float], session: Session) -> dict[str, int]:
    """Share out the patients among train, val and test; numbers of patients, or fractions of them below 1."""
    train, val, test = (int(s) if s >= 1 else s for s in shares)
    counts = splits.split(
        Cohort.open(cohort), train=train, val=val, test=test, seed=session.seed, overwrite=session.overwrite
    )
    session.progress.say("  " + ", ".join(f"{name}: {count} cases" for name, count in counts.items()))
    return counts


def fit(
    cohort: Path | Cohort,
    output: Path,
    settings: Settings,
    session: Session,
    *,
    generator: str = "joint_ldm",
    steps: Sequence[str] | None = None,
    pseudo_labels: Path | None = None,
) -> Path:
    """Fit a generator on the training cases of a split cohort.

    Args:
        steps: parts of the fit, such as ``["autoencoder"]``; all by default.
        pseudo_labels: run folder of a segmenter; it labels the training cases that have no labels.
    """
    from voxpair.generators import generator_class

    cohort = _opened(cohort)
    cohort.split("train")  # an unsplit cohort is refused before anything is claimed
    inputs = {"cohort": cohort.digest(), "generator": generator, "pseudo_labels": str(pseudo_labels or "")}
    run = _claim(output, "generator", settings, session, inputs)
    if not _finished(run.path):
        if pseudo_labels is not None:
            cohort = _with_pseudo_labels(cohort, pseudo_labels, run, session)
        model = generator_class(generator)(settings, cohort.label_table, cohort.modality)
        model.fit(cohort, run, steps=steps)
        if steps is None or model.steps[-1] in steps:
            model.save(run.path / "model")
            _finish(run.path)
    return run.path


def sample(
    run: Path, output: Path, count: int, session: Session, *, condition: Mapping[str, Any] | None = None
) -> Cohort:
    """Draw ``count`` synthetic pairs from a fitted generator; a larger count later adds to what is there."""
    from voxpair.generators import generator_class

    facts = _stage(run, "generator")
    model = generator_class(facts["inputs"]["generator"]).load(run / "model", device=resolve_device(session.device))
    folder = _claim(output, "sample", None, session, {"weights": model.digest, "condition": dict(condition or {})}).path
    if _finished(folder):
        cohort = Cohort.open(folder)
        if len(cohort) >= count:
            return cohort
        writer = CohortWriter.reopen(folder)
    else:
        writer = CohortWriter(folder, model.label_table, model.modality)
    session.progress.start("synthetic pairs", count, len(writer))
    for case in model.sample(count, seed=session.seed, condition=condition, first=len(writer)):
        writer.add(case)
        session.progress.advance()
    manifest = {
        "generator": facts["inputs"]["generator"],
        "weights_sha256": model.digest,
        "seed": session.seed,
        "condition": dict(condition or {}),
        "training_patients": model.training_patients,
        "versions": versions(),
    }
    return writer.finish(manifest=manifest)


def pretrain(cohorts: Sequence[Path | Cohort], output: Path, settings: PretrainSettings, session: Session) -> Path:
    """Learn an encoder from the images of ``cohorts`` by masked image modelling; labels are not used.

    Of a cohort that is split, only the training cases are seen.
    """
    from voxpair.pretraining.masked_modelling import pretrain as pretrain_on

    opened = [_training_part(_opened(cohort)) for cohort in cohorts]
    run = _claim(output, "pretraining", settings, session, {"cohorts": [cohort.digest() for cohort in opened]})
    if not _finished(run.path):
        pretrain_on(opened, settings, run)
        _finish(run.path)
    return run.path


def segment_fit(
    cohorts: Sequence[Path | Cohort],
    output: Path,
    settings: SegmenterSettings,
    session: Session,
    *,
    encoder: Path | None = None,
) -> Path:
    """Fit a segmenter on one real cohort with a split, and any number of synthetic ones.

    Raises:
        InputError: not exactly one real cohort; a synthetic cohort's generator has seen validation or test patients.
    """
    from voxpair.segmentation.segmenter import Segmenter

    opened = [_opened(cohort) for cohort in cohorts]
    real = [cohort for cohort in opened if not _is_synthetic(cohort)]
    synthetic = [cohort for cohort in opened if _is_synthetic(cohort)]
    if len(real) != 1 or len(synthetic) > 1:
        raise InputError(
            f"expected one real cohort and at most one synthetic, got {len(real)} real and {len(synthetic)} synthetic"
        )
    train = real[0].split("train").labelled()
    validation = real[0].split("val").labelled() if "val" in real[0].split_counts else None
    for name in ("val", "test"):
        for made in synthetic:
            if name in real[0].split_counts:
                splits.check_no_overlap(made, real[0].split(name))
    encoder_digest = read_json(encoder / "encoder.json")["weights_sha256"] if encoder else ""
    inputs = {"cohorts": [cohort.digest() for cohort in (train, *synthetic)], "encoder": encoder_digest}
    run = _claim(output, "segmenter", settings, session, inputs)
    if not _finished(run.path):
        model = Segmenter(settings, train.label_table, train.modality)
        model.fit(train, run, synthetic=synthetic[0] if synthetic else None, validation=validation, encoder=encoder)
        model.save(run.path / "model")
        _finish(run.path)
    return run.path


def segment_predict(
    run: Path, cohort: Path | Cohort, output: Path, session: Session, *, split: str | None = None
) -> Cohort:
    """Segment every image of a cohort, or of one of its splits, in its original geometry."""
    from voxpair.segmentation.segmenter import Segmenter

    _stage(run, "segmenter")
    cohort = _opened(cohort)
    cohort = cohort.split(split) if split else cohort
    model = Segmenter.load(run / "model", device=resolve_device(session.device))
    folder = _claim(output, "prediction", None, session, {"weights": model.digest, "cohort": cohort.digest()}).path
    if _finished(folder):
        return Cohort.open(folder)
    writer = CohortWriter(folder, model.label_table, cohort.modality)
    session.progress.start("predictions", len(cohort), len(writer))
    for record in cohort.records:
        if not writer.has(record.name):
            writer.add(model.predict(cohort.read(record.name)), split=record.split)
            session.progress.advance()
    return writer.finish(manifest={"segmenter": model.digest})


def evaluate_masks(
    predictions: Path | Cohort, reference: Path | Cohort, output: Path, session: Session, *, tolerance_mm: float = 1.0
) -> Summary:
    """Compare predicted with reference labels: ``masks.csv`` and ``masks.json`` in ``output``.

    Of a reference that is split, only the cases of the splits that the predictions come from are expected.
    """
    from voxpair.evaluation.agreement import evaluate_masks as evaluate

    predicted, reference = _opened(predictions), _opened(reference).labelled()
    wanted = {record.split for record in predicted.records}
    if None not in wanted:
        reference = replace(reference, records=tuple(r for r in reference.records if r.split in wanted))
    make_folder(output)
    return evaluate(predicted, reference, output, tolerance_mm=tolerance_mm, progress=session.progress)


def write_report(run: Path) -> Path:
    """Write ``report.html`` about the run folder ``run`` and return its path."""
    from voxpair.report import page

    return page.write_report(run)


def resolve_device(name: str) -> str:
    """Return torch's name of a device that is there.

    Raises:
        InputError: the device is unknown or absent.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind not in there or (index and not index.isdigit()):
        raise InputError(f"--device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    if int(index or 0) >= there[kind]:
        raise InputError(f"--device {name!r}: this machine has {there[kind]} devices of that kind")
    return name


def _opened(cohort: Path | Cohort) -> Cohort:
    return cohort if isinstance(cohort, Cohort) else Cohort.open(Path(cohort))


def _training_part(cohort: Cohort) -> Cohort:
    return cohort.split("train") if any(cohort.split_counts.get(name) for name in ("train", "val", "test")) else cohort


def _is_synthetic(cohort: Cohort) -> bool:
    return all(record.source == "synthetic" for record in cohort.records)


def _with_pseudo_labels(cohort: Cohort, segmenter: Path, run: RunFolder, session: Session) -> Cohort:
    """Return the cohort with predicted labels where its training cases have none."""
    unlabelled = cohort.split("train").unlabelled()
    if not unlabelled.records:
        raise InputError(f"--pseudo-labels: every training case of {cohort.folder} has labels already")
    made = segment_predict(segmenter, unlabelled, run.path / "pseudo_labels", session)
    labels = {record.name: record.labels_path for record in made.records}
    records = tuple(replace(r, labels_path=labels.get(r.name, r.labels_path)) for r in cohort.records)
    return replace(cohort, records=records)


def _claim(
    folder: Path, kind: str, settings: Settings | None, session: Session, inputs: Mapping[str, Any]
) -> RunFolder:
    """Make ``folder`` this stage's own, or recognise it as such; see the top of this module."""
    wanted = {
        "voxpair": kind,
        "seed": session.seed,
        "inputs": dict(inputs),
        "settings": settings.model_dump(mode="json") if settings else {},
    }
    marker = folder / "stage.json"
    if marker.exists():
        found = read_json(marker)
        differences = _differences(found, wanted, "")
        if differences and not session.overwrite:
            raise InputError(
                f"{folder} holds a {found.get('voxpair', 'stage')} made differently ({'; '.join(differences[:3])}). "
                "Choose another folder, or pass --overwrite to replace it."
            )
        if differences:
            shutil.rmtree(folder)
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and was not made by voxpair; choose another folder")
    make_folder(folder)
    free = shutil.disk_usage(folder).free
    if free < BYTES_TO_START:
        raise RunError(
            f"the disk of {folder} has {free / 1e6:.0f} MB left; at least {BYTES_TO_START / 1e6:.0f} are needed"
        )
    if not marker.exists():
        write_json(marker, wanted)
        if settings:
            write_text(folder / "settings.yaml", yaml.safe_dump(wanted["settings"], sort_keys=False))
    return RunFolder(folder, session.seed, resolve_device(session.device) if settings else "cpu", session.progress)


def _differences(found: Any, wanted: Any, path: str) -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = dict.fromkeys((*found, *wanted))
        return [
            line for key in keys for line in _differences(found.get(key), wanted.get(key), f"{path}.{key}".strip("."))
        ]
    return [] if found == wanted else [f"{path} was {found!r}, now {wanted!r}"]


def _stage(folder: Path, kind: str) -> dict[str, Any]:
    """Return the facts of a finished stage of the right kind."""
    if not (folder / "stage.json").exists():
        raise InputError(f"{folder} is no run folder of voxpair: it has no stage.json")
    facts = read_json(folder / "stage.json")
    if facts["voxpair"] != kind:
        raise InputError(f"{folder} holds a {facts['voxpair']}; expected a {kind}")
    if not _finished(folder):
        raise InputError(f"the {kind} in {folder} is not finished; run the command that makes it again to go on")
    return facts


def _finished(folder: Path) -> bool:
    return (folder / "done.json").exists() or (folder / "dataset.json").exists()


def _finish(folder: Path) -> None:
    write_json(folder / "done.json", {"versions": versions()})
