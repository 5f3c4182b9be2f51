"""Stages that learn an encoder from images and a segmenter from pairs, and let it predict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxpair.cohorts import splits
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.errors import InputError
from voxpair.core.run import read_json
from voxpair.stages.claims import Session, already_done, claim, finish, opened, resolve_device, stage_facts
from voxpair.stages.cohorts import add_changed

if TYPE_CHECKING:
    from voxpair.pretraining.masked_modelling import PretrainSettings
    from voxpair.segmentation.segmenter import SegmenterSettings


def pretrain(cohorts: Sequence[Path | Cohort], output: Path, settings: PretrainSettings, session: Session) -> Path:
    """Learn an encoder from the images of ``cohorts`` by masked image modelling; labels are not used.

    Of a cohort that is split, only the training cases are seen.
    """
    from voxpair.pretraining.masked_modelling import pretrain as pretrain_on

    images = [_training_part(opened(cohort)) for cohort in cohorts]
    inputs = {"cohorts": [cohort.digest() for cohort in images]}
    with claim(output, "pretraining", settings, session, inputs) as run:
        if not already_done(run.path, session):
            pretrain_on(images, settings, run)
            finish(run.path)
        return run.path


def segment_fit(
    cohorts: Sequence[Path | Cohort],
    output: Path,
    settings: SegmenterSettings,
    session: Session,
    *,
    encoder: Path | None = None,
    start: Path | None = None,
) -> Path:
    """Fit a segmenter on one real cohort with a split, and any number of made ones (synthetic, or predicted labels).

    Args:
        encoder: run folder of a pretraining.
        start: run folder of a segmenter that this one goes on from.

    Raises:
        InputError: not exactly one real cohort; a made cohort, the generator behind it, the encoder or the start has
            seen validation or test patients.
    """
    from voxpair.segmentation.segmenter import Segmenter

    given = [opened(cohort) for cohort in cohorts]
    real = [cohort for cohort in given if not is_made(cohort)]
    made = [cohort for cohort in given if is_made(cohort)]
    if len(real) != 1:
        raise InputError(f"expected one real cohort and any number of synthetic ones, got {len(real)} real")
    train = real[0].split("train").labelled()
    validation = real[0].split("val").labelled() if "val" in real[0].split_counts else None
    judges = validation.digest() if validation else ""
    inputs = {"cohorts": [cohort.digest() for cohort in (train, *made)], "validation": judges, "encoder": ""}
    seen = {str(cohort.folder): splits.patients_behind(cohort) for cohort in (train, *made)}
    if encoder is not None:
        facts = read_json(encoder / "encoder.json")
        inputs["encoder"], seen[str(encoder)] = facts["weights_sha256"], frozenset(facts["patients"])
    if start is not None:
        seen[str(start)] = patients_behind(start)
        inputs["start"] = weights_of(start)
    check_unseen_by(real[0], seen)
    with claim(output, "segmenter", settings, session, inputs) as run:
        if not already_done(run.path, session):
            model = Segmenter(settings, train.label_table, train.modality)
            model.fit(
                real[0].split("train"),  # with the unlabelled, which are left out aloud
                run,
                synthetic=made,
                validation=validation,
                encoder=encoder,
                start=start / "model" if start else None,
            )
            model.save(run.path / "model")
            finish(run.path, patients=sorted(frozenset().union(*seen.values())))
        return run.path


def check_unseen_by(cohort: Cohort, seen: Mapping[str, Collection[str]]) -> None:
    """Raise InputError if a validation or test patient of ``cohort`` is among those ``seen`` by anybody named."""
    for name in {"val", "test"} & set(cohort.split_counts):
        for by, patients in seen.items():
            splits.check_unseen(patients, by, cohort.split(name), "Let it learn from the training patients only")


def weights_of(segmenter: Path) -> str:
    """Return the SHA-256 of the weights of the finished segmenter in a run folder."""
    stage_facts(segmenter, "segmenter")
    return read_json(segmenter / "model/segmenter.json")["weights_sha256"]


def patients_behind(segmenter: Path) -> frozenset[str]:
    """Return the patients whom the finished segmenter in a run folder has seen, itself or through what it began with.

    Raises:
        InputError: there is no finished segmenter, or it does not say.
    """
    stage_facts(segmenter, "segmenter")
    patients = read_json(segmenter / "done.json").get("patients")
    if patients is None:
        raise InputError(f"{segmenter / 'done.json'} does not say which patients it has seen; fit that segmenter again")
    return frozenset(patients)


def segment_predict(
    run: Path | Sequence[Path], cohort: Path | Cohort, output: Path, session: Session, *, split: str | None = None
) -> Cohort:
    """Segment every image of a cohort, or of one of its splits, in its original geometry.

    Args:
        run: run folder of a segmenter; several decide together, by the mean of their probabilities.
    """
    from voxpair.segmentation.ensemble import Ensemble

    runs = [run] if isinstance(run, str | Path) else list(run)
    seen = frozenset().union(*(patients_behind(Path(run)) for run in runs))
    cohort = opened(cohort)
    cohort = cohort.split(split) if split else cohort
    model = Ensemble.load([Path(run) / "model" for run in runs], device=resolve_device(session.device))
    inputs = {"weights": model.digest, "cohort": cohort.digest()}
    with claim(output, "prediction", None, session, inputs) as claimed:
        if already_done(claimed.path, session):
            return Cohort.open(claimed.path)
        writer = CohortWriter(claimed.path, model.label_table, cohort.modality)
        add_changed(writer, cohort, model.predict, "predictions", session)
        return writer.finish(manifest={"segmenter": model.digest, "training_patients": sorted(seen)})


def _training_part(cohort: Cohort) -> Cohort:
    return cohort.split("train") if any(cohort.split_counts.get(name) for name in ("train", "val", "test")) else cohort


def is_made(cohort: Cohort) -> bool:
    """True if no case of a cohort is a scan: synthetic pairs, or what a segmenter predicted."""
    return all(record.source in ("synthetic", "prediction") for record in cohort.records)
