"""Verbs that turn cohorts into numbers, and numbers into a page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from voxpair.core.errors import InputError
from voxpair.evaluation.masks import NSD_TOLERANCE_MM
from voxpair.options import (
    Config,
    Device,
    DryRun,
    Judge,
    Output,
    Overwrite,
    PresetName,
    Quiet,
    Seed,
    Set,
    Verbose,
    quoted,
    read_config,
    say_next,
    session_of,
    show,
)


def masks(
    predictions: Annotated[Path, typer.Argument(help="Cohort of predictions.")],
    reference: Annotated[Path, typer.Argument(help="Cohort with the true labels.")],
    output: Output,
    tolerance_mm: Annotated[
        float, typer.Option(min=0, help="Tolerance of the normalised surface Dice.")
    ] = NSD_TOLERANCE_MM,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Dice, HD95, ASSD, NSD and volume error per structure and case, by name: masks.csv and masks.json."""
    from voxpair import stages

    with session_of("cpu", 0, overwrite, quiet) as session:
        summary = stages.evaluate_masks(predictions, reference, output, session, tolerance_mm=tolerance_mm)
    typer.echo(summary.as_text())
    _say_report(output, f"voxpair study {quoted(reference)} -o STUDY")


def pairs(
    synthetic: Annotated[Path, typer.Argument(help="Synthetic cohort.")],
    real: Annotated[Path, typer.Argument(help="Real cohort.")],
    output: Output,
    segmenter: Judge = None,
    network: Annotated[
        str | None, typer.Option(help="Feature network of others, such as radimagenet_resnet50; needs --weights.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="File with the weights of --network.")] = None,
    preset: PresetName = "auto",
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """How real, varied, plausible synthetic pairs are, beside real against real: pairs.json, pairs.csv, curves.json.

    Without --segmenter one is fitted on the training cases of the real cohort, in OUTPUT/segmenter.
    """
    from voxpair import stages
    from voxpair.evaluation.pairs.evaluate import as_text
    from voxpair.presets import part

    if (network is None) != (weights is None):
        raise InputError("--network and --weights go together: the name of a network and the file with its weights")
    judge = segmenter or part(preset, "segmentation", cohort=real)
    named = (network, weights) if network and weights else None
    with session_of(device, seed, overwrite, quiet) as session:
        measures = stages.evaluate_pairs(synthetic, real, output, session, segmenter=judge, network=named)
    typer.echo(as_text(measures))
    say_next(f"voxpair audit {quoted(synthetic)} {quoted(real)} -o AUDIT")


def audit(
    synthetic: Annotated[Path, typer.Argument(help="Synthetic cohort.")],
    training: Annotated[Path, typer.Argument(help="Cohort that the generator was fitted on.")],
    output: Output,
    reference: Annotated[
        Path | None, typer.Option(help="Real cases of other patients; by default those held out of TRAINING.")
    ] = None,
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Which patients were copied: audit.json; exit code 1 if the audit misses copies that it planted to test itself."""
    from voxpair import stages
    from voxpair.core.settings import merge, override
    from voxpair.evaluation.audit.memorisation import AuditSettings

    settings = override(merge(AuditSettings(), read_config(config), source="--config"), assignments)
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        found = stages.audit(synthetic, training, output, session, reference=reference, settings=settings)
    typer.echo(found.as_text())
    found.check()
    _say_report(output, f"voxpair pretrain {quoted(synthetic)} {quoted(training)} -o ENCODER")


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


def _say_report(output: Path, otherwise: str) -> None:
    """Name the command that shows ``output`` where it lies in the folder of a run, else the one that goes on."""
    for folder in output.parents[:2]:  # RUN/audit, RUN/evaluation/PROTOCOL
        if (folder / "summary.json").exists() or (folder / "study.json").exists():
            return say_next(f"voxpair report {quoted(folder)}")
    return say_next(otherwise)
