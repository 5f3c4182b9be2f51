"""Stages that make, check and split cohorts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxpair.cohorts import doctor, layouts, splits, volumes
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.core.case import Case
from voxpair.core.run import make_folder, read_json
from voxpair.core.settings import digest
from voxpair.stages.claims import Session, already_done, claim, finished

if TYPE_CHECKING:
    from voxpair.phantom.heart_cohort import PhantomSettings


@dataclass(frozen=True)
class Scans:
    """Scans as a user has them; the options are those of ``voxpair import``."""

    source: Path
    layout: str = "auto"
    images: str | None = None
    labels: str | None = None
    label_table: str | None = None
    modality: str | None = None

    @property
    def are_a_cohort(self) -> bool:
        """True for a cohort that voxpair made, of which nothing is to be read in another way."""
        return self == Scans(self.source) and Cohort.is_ours(self.source)

    def listing(self) -> layouts.Listing:
        """List the scans; see ``layouts.list_scans``."""
        return layouts.list_scans(self.source, self.layout, self.images, self.labels)

    def check(self) -> None:
        """Refuse a wrong folder, pattern, table or modality, before anything is written."""
        self.listing()
        layouts.labelling_of(self.label_table)
        layouts.check_modality(self.modality)


def make_phantoms(output: Path, count: int, settings: PhantomSettings, session: Session, *, workers: int = 1) -> Cohort:
    """Write a cohort of ``count`` phantom hearts, or chests where ``settings.labels`` says so.

    Beside ``labelsTr`` lie the maps that were not asked for, ``labelsClean`` or ``labelsExpert``, on the same grids and
    under the same names; ``manifest.json`` names them as ``other_labels``. nnU-Net does not look at them.
    """
    from voxpair.core.labels import CARDIAC8, THORAX7
    from voxpair.phantom.heart_cohort import heart_cases_with_others

    with claim(output, "phantom", settings, session, {"count": count}) as run:
        if already_done(run.path, session):
            return Cohort.open(run.path)
        table = THORAX7 if settings.labels == "thorax" else CARDIAC8
        writer = CohortWriter(run.path, table, "MRI" if settings.modality == "mr" else "CT")
        session.progress.start("phantom hearts", count, len(writer))
        others = {kind: f"labels{kind.capitalize()}" for kind in ("expert", "clean") if kind != settings.labels}
        for name in others.values():
            make_folder(run.path / name)
        for case, maps in heart_cases_with_others(settings, count, session.seed, first=len(writer), workers=workers):
            for kind, labels in maps.items():  # first, so that a case the writer counts has all its files
                volumes.write_labels(run.path / others[kind] / f"{case.name}.nii.gz", labels, case.affine)
            writer.add(case)
            session.progress.advance()
        facts = {"generator": "phantom", "seed": session.seed, "other_labels": list(others.values())}
        return writer.finish(manifest=facts)


def import_scans(scans: Scans, output: Path, session: Session) -> Cohort:
    """Turn scans in any known layout into a cohort; what was done to them is said and kept in ``dataset.json``."""
    scans.check()
    named = layouts.labelling_of(scans.label_table)
    content = digest([scans.listing().digest(), [named.table.to_mapping(), named.values] if named else None])
    inputs = {**{key: str(value) for key, value in asdict(scans).items()}, "content": content}
    if _broken_off_before_a_change(output, inputs):
        session.progress.say(
            f"the scans in {scans.source} have changed since this import was broken off: it begins anew"
        )
        shutil.rmtree(output)
    with claim(output, "import", None, session, inputs) as run:
        if already_done(run.path, session):
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


def _broken_off_before_a_change(output: Path, inputs: Mapping[str, Any]) -> bool:
    """True for a half-made import by the same words of scans that were other ones then."""
    marker = output / "stage.json"
    if not marker.exists() or finished(output):
        return False
    found = read_json(marker)["inputs"]
    return found != inputs and {**found, "content": inputs["content"]} == inputs


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


def split_if_needed(cohort: Cohort, shares: tuple[float, float, float], session: Session) -> Cohort:
    """Split a cohort that has no split yet, where it lies, and say that its ``cases.csv`` was written."""
    if set(cohort.split_counts) != {""}:
        return cohort
    session.progress.say(f"  {cohort.folder} has no split yet: one is drawn and written to its cases.csv")
    split(cohort.folder, shares, session)
    return Cohort.open(cohort.folder)


def add_changed(
    writer: CohortWriter, cohort: Cohort, change: Callable[[Case], Case], title: str, session: Session
) -> None:
    """Add every case of ``cohort`` as ``change`` makes it, in its split; what is there already is left alone."""
    session.progress.start(title, len(cohort), len(writer))
    for record in cohort.records:
        if not writer.has(record.name):
            writer.add(change(cohort.read(record.name)), split=record.split)
            session.progress.advance()
