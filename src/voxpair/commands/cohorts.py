"""Verbs that make, check and split cohorts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from voxpair.core.errors import InputError
from voxpair.options import (
    Config,
    DryRun,
    Images,
    Labels,
    Layout,
    Modality,
    Output,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Set,
    Table,
    Verbose,
    quoted,
    read_config,
    say_next,
    scans_of,
    session_of,
    show,
)


def phantom(
    output: Output,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of hearts.")] = 40,
    preset: PresetName = "demo",
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    dry_run: DryRun = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Make a cohort of cardiac CT phantoms with eight labelled substructures."""
    from voxpair import stages
    from voxpair.presets import part

    settings = part(preset, "phantom", read_config(config), assignments)
    if dry_run:
        return show(settings)
    with session_of("cpu", seed, overwrite, quiet) as session:
        stages.make_phantoms(output, count, settings, session, workers=workers)
    say_next(f"voxpair split {quoted(output)} --train 0.6 --val 0.2 --test 0.2")


def import_(
    source: Annotated[Path, typer.Argument(help="Folder of scans.")],
    output: Output,
    layout: Layout = "auto",
    images: Images = None,
    labels: Labels = None,
    label_table: Table = None,
    modality: Modality = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Turn a folder of scans, in any known layout, into a cohort."""
    from voxpair import stages

    scans = scans_of(source, layout, images, labels, label_table, modality)
    with session_of("cpu", 0, overwrite, quiet) as session:
        stages.import_scans(scans, output, session)
    say_next(f"voxpair check {quoted(output)}")


def check(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder.")],
    fix: Annotated[Path | None, typer.Option(help="Write a copy in which what can be mended safely is mended.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="CSV or JSON file of findings.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Find what is wrong with the scans before hours are spent on them; exit code 2 if anything is."""
    from voxpair import stages

    with session_of("cpu", 0, overwrite, quiet) as session:
        findings = stages.check(cohort, session, fix=fix, output=output)
    for finding in findings:
        typer.echo(f"{finding.severity:8}{finding.as_text()}")
    errors = sum(f.severity == "error" for f in findings)
    if errors and fix is None:
        mend = f"voxpair check {quoted(cohort)} --fix MENDED"
        raise InputError(f"{cohort} has {errors} error{'s' if errors > 1 else ''}; '{mend}' mends what is safe")
    checked = fix or cohort
    if set(stages.opened(checked).split_counts) == {""}:
        say_next(f"voxpair split {quoted(checked)} --train 0.8 --val 0.2")
    else:
        say_next(f"voxpair fit {quoted(checked)} -o RUN")


def split(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder; its cases.csv is written.")],
    train: Annotated[float, typer.Option(help="Patients to train on: a number, or a fraction below 1.")],
    val: Annotated[float, typer.Option(help="Patients to validate on.")],
    test: Annotated[float, typer.Option(help="Patients kept for the test.")] = 0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Share out the patients among train, val and test, once and for all."""
    from voxpair import stages

    with session_of("cpu", seed, overwrite, quiet) as session:
        stages.split(cohort, (train, val, test), session)
    say_next(f"voxpair fit {quoted(cohort)} -o RUN")
