"""The command line: which verbs there are, in the order of the data flow, and what an error looks like.

Exit codes: 0 done, 1 failed while running, 2 wrong arguments or input, 130 interrupted. The same command run again
resumes.
Nothing that computes is imported before a verb needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import sys
import traceback

import typer

from voxpair.commands import cohorts, generators, main_job, results, segmentation, study
from voxpair.core.errors import VoxpairError

INTERRUPTED = 130  # 128 + SIGINT, as shells count

VERBS = {
    "The main job": {"run": main_job.run, "demo": main_job.demo},
    "Cohorts": {
        "phantom": cohorts.phantom,
        "import": cohorts.import_,
        "check": cohorts.check,
        "split": cohorts.split,
    },
    "Generators": {"fit": generators.fit, "sample": generators.sample, "reconstruct": generators.reconstruct},
    "Segmentation": {
        "pretrain": segmentation.pretrain,
        "segment": ("Fit a segmenter, or let one predict.", segmentation.fit, segmentation.predict),
    },
    "Results": {
        "evaluate": ("Turn predictions and synthetic pairs into numbers.", results.masks, results.pairs),
        "audit": results.audit,
        "study": study.study,
        "report": results.report,
        "info": results.info,
    },
}


def make_app() -> typer.Typer:
    """Return the program: a panel of ``--help`` per subject; a verb with several functions has words of its own."""
    program = typer.Typer(
        name="voxpair",
        help="Learn from a few annotated 3D scans, generate paired volumes, and turn them into better segmentation.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Inputs are plain arguments; '-i' may stand before them. The same command run again resumes.",
    )
    for panel, verbs in VERBS.items():
        for verb, function in verbs.items():
            if callable(function):
                program.command(verb, rich_help_panel=panel)(function)
                continue
            purpose, *functions = function
            group = typer.Typer(no_args_is_help=True, help=purpose)
            for each in functions:
                group.command(each.__name__)(each)
            program.add_typer(group, name=verb, rich_help_panel=panel)
    return program


app = make_app()


def main(words: list[str] | None = None) -> None:
    """Run one command; errors that a user can act on become one sentence and an exit code.

    Args:
        words: as on the command line, without the program's name; None takes those of this process.
    """
    words = sys.argv[1:] if words is None else words
    words = [word for word in words if word not in ("-i", "--input")]  # inputs are arguments; the habit does no harm
    try:
        app(words, prog_name="voxpair")
    except VoxpairError as error:
        if {"--verbose", "-v"} & set(words):
            traceback.print_exc()
        _fail(str(error), error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer has turned the KeyboardInterrupt into this
            _fail("interrupted. What was finished is kept: the same command goes on from there.", INTERRUPTED)
        raise
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
