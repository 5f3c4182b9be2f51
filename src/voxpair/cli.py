"""The command line: words in, exit codes out. It reads arguments, calls one stage and says what to type next.

Exit codes: 0 done, 1 failed while running, 2 wrong arguments or input. The same command run again resumes.
Nothing that computes is imported before a verb needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import logging
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxpair.core.errors import InputError, VoxpairError

# fmt: off
from voxpair.options import (
    Config,
    Device,
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
    read_conditions,
    read_config,
    say_next,
    scans_of,
    session_of,
    show,
)

# fmt: on

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="voxpair",
    help="Learn from a few annotated 3D scans, generate paired volumes, and turn them into better segmentation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Inputs are plain arguments; '-i' may stand before them. The same command run again resumes.",
)
segment_app = typer.Typer(no_args_is_help=True, help="Fit a segmenter, or let one predict.")
evaluate_app = typer.Typer(no_args_is_help=True, help="Turn predictions into numbers.")


@app.command("run", rich_help_panel="The main job")
def run_command(
    source: Annotated[Path, typer.Argument(help="Folder of scans in any layout that 'import' takes, or a cohort.")],
    output: Output,
    preset: PresetName = "auto",
    layout: Layout = "auto",
    images: Images = None,
    labels: Labels = None,
    label_table: Table = None,
    modality: Modality = None,
    assignments: Set = [],  # noqa: B006  typer copies it
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Do it all on your scans: import, check, split, fit, sample, pretrain, segment, evaluate, report."""
    from voxpair import pipeline
    from voxpair.presets import plan

    scans = scans_of(source, layout, images, labels, label_table, modality)
    changes = read_config(config)
    if preset != "auto" or dry_run:  # a wrong word is refused before the scans are read
        settings = plan(preset, changes, assignments, source if (source / "dataset.json").exists() else None)
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        report = pipeline.run(scans, output, lambda cohort: plan(preset, changes, assignments, cohort), session)
    say_next(f"open {shlex.quote(str(report))} in a browser")


@app.command("demo", rich_help_panel="The main job")
def demo_command(
    output: Output,
    preset: PresetName = "demo",
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The main job on phantom hearts, on a laptop's CPU, within 15 minutes."""
    from voxpair import pipeline
    from voxpair.presets import plan

    settings = plan(preset, read_config(config), assignments)
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        report = pipeline.demo(output, settings, session)
    say_next(f"open {shlex.quote(str(report))} in a browser")


@app.command("phantom", rich_help_panel="Cohorts")
def phantom_command(
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


@app.command("import", rich_help_panel="Cohorts")
def import_command(
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


@app.command("check", rich_help_panel="Cohorts")
def check_command(
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
        typer.echo(f"{finding.severity:8}{finding.case}: {finding.what} {finding.advice}")
    errors = sum(f.severity == "error" for f in findings)
    if errors and fix is None:
        raise InputError(
            f"{cohort} has {errors} errors; 'voxpair check {quoted(cohort)} --fix MENDED' mends what is safe"
        )
    say_next(f"voxpair split {quoted(fix or cohort)} --train 0.8 --val 0.2")


@app.command("split", rich_help_panel="Cohorts")
def split_command(
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


@app.command("fit", rich_help_panel="Generators")
def fit_command(
    cohort: Annotated[Path, typer.Argument(help="Cohort folder with a split.")],
    output: Output,
    generator: Annotated[str, typer.Option(help="Which generator; 'voxpair info' lists them.")] = "joint_ldm",
    pseudo_labels: Annotated[
        Path | None, typer.Option(help="Run folder of a segmenter that labels the unlabelled training cases.")
    ] = None,
    preset: PresetName = "auto",
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Learn p(image, labels) from the training cases of a cohort."""
    from voxpair import stages
    from voxpair.presets import part

    settings = part(preset, "generator", read_config(config), assignments, cohort=cohort)
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        stages.fit(cohort, output, settings, session, generator=generator, pseudo_labels=pseudo_labels)
    say_next(f"voxpair sample {quoted(output)} -o SYNTHETIC -n 100")


@app.command("sample", rich_help_panel="Generators")
def sample_command(
    run: Annotated[Path, typer.Argument(help="Run folder of 'voxpair fit'.")],
    output: Output,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of pairs.")] = 100,
    condition: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Such as sex=F or volume:LAA=8; repeatable.")
    ] = [],  # noqa: B006
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw new pairs into a synthetic cohort; more of them later go on from where these end."""
    from voxpair import stages

    with session_of(device, seed, overwrite, quiet) as session:
        stages.sample(run, output, count, session, condition=read_conditions(condition))
    say_next(f"voxpair pretrain {quoted(output)} -o PRETRAINED")


@app.command("pretrain", rich_help_panel="Segmentation")
def pretrain_command(
    cohorts: Annotated[list[Path], typer.Argument(help="Cohorts whose images are learnt from; labels are not used.")],
    output: Output,
    preset: PresetName = "auto",
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Masked image modelling: learn an encoder from images alone."""
    from voxpair import stages
    from voxpair.presets import part

    settings = part(preset, "pretraining", read_config(config), assignments, cohort=cohorts[0])
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        stages.pretrain(cohorts, output, settings, session)
    say_next(f"voxpair segment fit COHORT {quoted(cohorts[0])} -o SEGMENTER --encoder {quoted(output)}")


@segment_app.command("fit")
def segment_fit_command(
    cohorts: Annotated[list[Path], typer.Argument(help="One real cohort with a split, and synthetic cohorts.")],
    output: Output,
    encoder: Annotated[Path | None, typer.Option(help="Run folder of 'voxpair pretrain'.")] = None,
    preset: PresetName = "auto",
    assignments: Set = [],  # noqa: B006
    config: Config = None,
    dry_run: DryRun = False,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Fit a segmenter on real, or real and synthetic, pairs."""
    from voxpair import stages
    from voxpair.presets import part

    settings = part(preset, "segmentation", read_config(config), assignments, cohort=cohorts[0])
    if dry_run:
        return show(settings)
    with session_of(device, seed, overwrite, quiet) as session:
        stages.segment_fit(cohorts, output, settings, session, encoder=encoder)
    say_next(f"voxpair segment predict {quoted(output)} {quoted(cohorts[0])} -o PREDICTIONS")


@segment_app.command("predict")
def segment_predict_command(
    run: Annotated[Path, typer.Argument(help="Run folder of 'voxpair segment fit'.")],
    cohort: Annotated[Path, typer.Argument(help="Cohort whose images are segmented.")],
    output: Output,
    split: Annotated[str | None, typer.Option(help="Only the cases of this split: train, val or test.")] = None,
    device: Device = "auto",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Segment every image of a cohort, in its original geometry; the result is a cohort."""
    from voxpair import stages

    with session_of(device, seed, overwrite, quiet) as session:
        stages.segment_predict(run, cohort, output, session, split=split)
    say_next(f"voxpair evaluate masks {quoted(output)} {quoted(cohort)} -o EVALUATION")


@evaluate_app.command("masks")
def evaluate_masks_command(
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


@app.command("report", rich_help_panel="Results")
def report_command(
    run: Annotated[Path, typer.Argument(help="Folder of 'voxpair run' or 'voxpair demo'.")],
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write one offline HTML page about a run."""
    from voxpair import stages

    with session_of("cpu", 0, False, quiet):
        page = stages.write_report(run)
    say_next(f"open {shlex.quote(str(page))} in a browser")


@app.command("info", rich_help_panel="Results")
def info_command(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List presets, generators, networks, label tables, layouts and versions."""
    from voxpair.info import as_text, describe

    typer.echo(json.dumps(describe(), indent=2) if as_json else as_text(describe()))


app.add_typer(segment_app, name="segment", rich_help_panel="Segmentation")
app.add_typer(evaluate_app, name="evaluate", rich_help_panel="Results")


def main(words: list[str] | None = None) -> None:
    """Run one command; errors that a user can act on become one sentence and an exit code.

    Args:
        words: as on the command line, without the program's name; None takes those of this process.
    """
    words = sys.argv[1:] if words is None else words
    words = [word for word in words if word not in ("-i", "--input")]  # inputs are arguments; the habit does no harm
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    try:
        app(words, prog_name="voxpair")
    except VoxpairError as error:
        if {"--verbose", "-v"} & set(words):
            traceback.print_exc()
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted. What was finished is kept: the same command goes on from there.", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO):
            raise
        where = f" {error.filename}" if error.filename else ""
        _fail(f"cannot read or write{where}: {error.strerror}. What was finished is kept.", 1)


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
