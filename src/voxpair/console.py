"""What the command line shows while it works: bars with time left on a terminal, plain lines in a log file."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


class ConsoleProgress:
    """core.run.Progress on standard error. Use as a context manager, so that the bars end with the work."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.current: int | None = None
        self.description, self.total, self.done, self.done_before = "", 0, 0, 0
        self.started = self.printed = time.monotonic()

    def __enter__(self) -> ConsoleProgress:
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def start(self, description: str, total: int, done: int = 0) -> None:
        self.description, self.total, self.done, self.done_before = description, total, done, done
        self.started = self.printed = time.monotonic()
        self.current = self.bars.add_task(description, total=total, completed=done, numbers="")
        if done and done < total:
            self.say(f"{description}: going on at {done} of {total}")

    def advance(self, steps: int = 1, **numbers: float) -> None:
        self.done += steps
        shown = "  ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        if self.current is not None:
            self.bars.update(self.current, advance=steps, numbers=shown)
        now = time.monotonic()
        if (
            self.bars.disable
            and not self.quiet
            and (now - self.printed > SECONDS_BETWEEN_LINES or self.done == self.total)
        ):
            self.printed = now
            per_step = (now - self.started) / max(1, self.done - self.done_before)
            left = f"{per_step * (self.total - self.done):.0f} s left" if self.done < self.total else "done"
            print(
                f"{self.description}: {self.done}/{self.total}  {left}  {shown}".rstrip(), file=sys.stderr, flush=True
            )

    def say(self, message: str) -> None:
        if not self.quiet:
            self.console.print(message, markup=False)
