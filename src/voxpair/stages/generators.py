"""Stages that learn p(image, labels) and draw from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.errors import InputError, RunError
from voxpair.core.interfaces import PairGenerator
from voxpair.core.run import RunFolder, read_json, versions
from voxpair.core.settings import Settings, override
from voxpair.stages.claims import Session, already_done, claim, finish, finished, opened, resolve_device, stage_facts
from voxpair.stages.cohorts import add_changed
from voxpair.stages.segmentation import check_unseen_by, patients_behind, segment_predict, weights_of
from voxpair.stages.selection import Selection, add_accepted


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

    Raises:
        InputError: the cohort is not split; the segmenter behind the pseudo-labels has seen validation or test
            patients.
    """
    from voxpair.generators import generator_class

    cohort = opened(cohort)
    training = cohort.split("train")  # an unsplit cohort is refused before anything is claimed
    inputs = {"cohort": cohort.digest(), "generator": generator, "pseudo_labels": ""}
    teachers: frozenset[str] = frozenset()
    if pseudo_labels is not None:
        teachers, inputs["pseudo_labels"] = patients_behind(pseudo_labels), weights_of(pseudo_labels)
        check_unseen_by(cohort, {str(pseudo_labels): teachers})
    with claim(output, "generator", settings, session, inputs) as run:
        if not already_done(run.path, session):
            if bare := len(training.unlabelled()):
                use = "with predicted labels" if pseudo_labels else "with their images alone"
                session.progress.say(
                    f"{bare} of {len(training)} training cases have no labels; they are learnt from {use}."
                )
            if pseudo_labels is not None:
                cohort = _with_pseudo_labels(cohort, pseudo_labels, run, session)
            model = generator_class(generator)(settings, cohort.label_table, cohort.modality)
            model.fit(cohort, run, steps=steps)
            if model.digest:  # all its steps are finished
                model.save(run.path / "model")
                finish(run.path, cohort=str(cohort.folder.resolve()), teachers_patients=sorted(teachers))
        return run.path


def sample(
    run: Path,
    output: Path,
    count: int,
    session: Session,
    *,
    condition: Mapping[str, Any] | None = None,
    sampling: Sequence[str] = (),
    selection: Selection | None = None,
) -> Cohort:
    """Draw ``count`` synthetic pairs from a fitted generator; a larger count later adds to what is there.

    Where there are more already, the first ``count`` are returned, and none is deleted.

    Args:
        sampling: changes to the generator's own settings of sampling, such as ``["guidance=3", "steps=50"]``.
        selection: by what rules a pair is kept; None keeps all. The rejected are drawn again under the next number,
            and listed with their reasons in ``selection.json``.

    Raises:
        RunError: so few pairs are accepted that ``count`` is out of reach; those accepted are kept.
    """
    from voxpair.generators import generator_class

    facts = stage_facts(run, "generator")
    model = generator_class(facts["inputs"]["generator"]).load(run / "model", device=resolve_device(session.device))
    model.settings = override(model.settings, [f"sampling.{assignment}" for assignment in sampling])
    how = model.settings.model_dump(mode="json").get("sampling", {})
    inputs = {"weights": model.digest, "condition": dict(condition or {}), "sampling": how}
    if selection is not None:
        inputs["selection"] = selection.describe()
    draw = partial(model.sample, seed=session.seed, condition=condition)
    draw(count)  # an unknown condition is refused before anything is claimed
    if selection is not None and selection.attempts is not None and selection.attempts < count:
        raise InputError(f"{count} pairs cannot be found in {selection.attempts} draws: raise --attempts, or lower -n")
    with claim(output, "sample", None, session, inputs) as claimed:
        folder = claimed.path
        if finished(folder):
            cohort = Cohort.open(folder)
            if len(cohort) >= count and already_done(folder, session):
                return _first(cohort, count, session)
            writer = CohortWriter.reopen(folder)
        else:
            writer = CohortWriter(folder, model.label_table, model.modality)
        session.progress.start("synthetic pairs", count, len(writer))
        manifest = {
            "generator": facts["inputs"]["generator"],
            "weights_sha256": model.digest,
            "seed": session.seed,
            "condition": dict(condition or {}),
            "sampling": how,
            "training_patients": _patients(run, model),
            "versions": versions(),
        }
        if selection is None:
            for case in draw(count, first=len(writer)):
                writer.add(case)
                session.progress.advance()
        else:
            try:
                add_accepted(writer, lambda index: next(draw(index + 1, first=index)), count, selection, session)
            except RunError:
                if len(writer) and (folder / "selection.json").exists():  # what was accepted is a cohort all the same
                    writer.finish(manifest=manifest | {"selection": read_json(folder / "selection.json")})
                raise
            manifest["selection"] = read_json(folder / "selection.json")
        return _first(writer.finish(manifest=manifest), count, session)


def reconstruct(
    run: Path, cohort: Path | Cohort, output: Path, session: Session, *, split: str | None = None
) -> Cohort:
    """Send every case of a cohort, or of one of its splits, through a generator's autoencoder and back.

    What comes out is what samples could look like if everything else were perfect: ``evaluate_pairs`` says how much
    texture and anatomy that is.

    Raises:
        InputError: the generator has no autoencoder.
    """
    from voxpair.generators import generator_class

    name = stage_facts(run, "generator")["inputs"]["generator"]
    kind = generator_class(name)
    if not hasattr(kind, "reconstruct"):
        raise InputError(f"{run} holds a {name}, which encodes no scans; only a joint_ldm can reconstruct them")
    model = kind.load(run / "model", device=resolve_device(session.device))
    cohort = opened(cohort)
    cohort = cohort.split(split) if split else cohort
    inputs = {"weights": model.digest, "cohort": cohort.digest()}
    with claim(output, "reconstruction", None, session, inputs) as claimed:
        if already_done(claimed.path, session):
            return Cohort.open(claimed.path)
        writer = CohortWriter(claimed.path, model.label_table, model.modality)
        add_changed(writer, cohort, model.reconstruct, "reconstructions", session)
        patients = sorted({*_patients(run, model), *cohort.patients})
        return writer.finish(
            manifest={"generator": name, "weights_sha256": model.digest, "training_patients": patients}
        )


def _patients(run: Path, model: PairGenerator) -> list[str]:
    """Return the patients whom the generator in a run folder has seen, itself or through pseudo-labels."""
    teachers = read_json(run / "done.json").get("teachers_patients", [])
    return sorted({*model.training_patients, *teachers})


def _first(cohort: Cohort, count: int, session: Session) -> Cohort:
    if len(cohort) > count:
        session.progress.say(
            f"{cohort.folder} holds {len(cohort)} pairs; only the first {count} are used now, none is deleted."
        )
    return replace(cohort, records=cohort.records[:count])


def _with_pseudo_labels(cohort: Cohort, segmenter: Path, run: RunFolder, session: Session) -> Cohort:
    """Return the cohort with predicted labels where its training cases have none."""
    unlabelled = cohort.split("train").unlabelled()
    if not unlabelled.records:
        raise InputError(f"--pseudo-labels: every training case of {cohort.folder} has labels already")
    made = segment_predict(segmenter, unlabelled, run.path / "pseudo_labels", session)
    labels = {record.name: record.labels_path for record in made.records}
    records = tuple(replace(r, labels_path=labels.get(r.name, r.labels_path)) for r in cohort.records)
    return replace(cohort, records=records)
