"""Verbs that turn cohorts into numbers, and numbers into a page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from voxpair.options import (
    Output,
    Overwrite,
    Quiet,
    Verbose,
    quoted,
    say_next,
    session_of,
)


def masks(
    predictions: Annotated[Path, typer.Argument(help="Cohort of predictions.")],
    reference: Annotated[Path, typer.Argument(help="Cohort with the true labels.")],
    output: Output,
    tolerance_mm: Annotated[float, typer.Option(min=0, help="Tolerance of the normalised surface Dice.")] = 1.0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Dice, HD95, ASSD, NSD and volume error per structure and case, by name: masks.csv and masks.json."""
    from voxpair import stages

    with session_of("cpu", 0, overwrite, quiet) as session:
        summary = stages.evaluate_masks(predictions, reference, output, session, tolerance_mm=tolerance_mm)
    typer.echo(summary.as_text())
    say_next(f"voxpair report {quoted(output.parent)}")


def report(
    run: Annotated[Path, typer.Argument(help="Folder of 'voxpair run' or 'voxpair demo'.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write one offline HTML page about a run."""
    from voxpair import stages

    with session_of("cpu", 0, False, quiet):
        page = stages.write_report(run)
    say_next(f"open {shlex.quote(str(page))} in a browser")


def info(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List presets, generators, networks, label tables, layouts and versions."""
    from voxpair.info import as_text, describe

    typer.echo(json.dumps(describe(), indent=2) if as_json else as_text(describe()))
