"""The only training loop. Autoencoder, diffusion model, masked modelling and segmenter are all fitted here.

Takes a task (networks and their losses), batches (a pure function of the update number) and settings;
gives the fitted task, a log (``metrics.jsonl``) and a checkpoint that resumes bit for bit:
what happens in update *t* depends on the state before it, the run's seed and *t*, on nothing else.

    word      meaning
    update    one optimiser step of every player
    player    a set of parameters with its own optimiser and loss; two only in adversarial tasks
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from voxpair.core.errors import RunError
from voxpair.core.interfaces import Batches
from voxpair.core.run import RunFolder, derive_seed, read_log, write_json, write_text
from voxpair.core.settings import Settings
from voxpair.training.precision import make_fabric, mend_convolutions
from voxpair.training.state import MovingAverage, has_checkpoint, load_checkpoint, save_checkpoint


class LoopSettings(Settings):
    """How long and how fast to fit.

    Attributes:
        updates: optimiser steps; the fit ends there unless early stopping ends it sooner.
        batch_size: cases per update and device, summed over ``accumulate`` passes.
        accumulate: passes into which a batch is cut to save memory.
        learning_rate, weight_decay: of AdamW.
        decay: "constant", or "cosine" to zero over ``updates``.
        warmup: updates over which the learning rate rises linearly.
        clip: largest gradient norm; None for no clipping.
        ema: decay of the weight average; None keeps none. The average is what a fit returns.
        precision: "auto" takes bfloat16 where the processor computes in it, else float32.
        validate_every: updates between validations; None validates never.
        patience: validations without a better score before stopping; None never stops early.
        checkpoint_every_s: seconds between checkpoints.
        workers: processes that prepare batches; 0 prepares them in the main process.
    """

    updates: int = Field(1000, ge=1)
    batch_size: int = Field(4, ge=1)
    accumulate: int = Field(1, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    decay: Literal["constant", "cosine"] = "constant"
    warmup: int = Field(0, ge=0)
    clip: float | None = Field(1.0, gt=0)
    ema: float | None = Field(None, ge=0, lt=1)
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    validate_every: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    checkpoint_every_s: float = Field(120.0, ge=0)
    workers: int = Field(0, ge=0)


class Task(nn.Module):
    """What is fitted: networks as sub-modules, losses in ``forward``."""

    def players(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of each player; by default one player has them all."""
        return {"model": [p for p in self.parameters() if p.requires_grad]}

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        """Return scalar losses by name; ``"loss"`` is the one that ``player`` minimises.

        A batch carries its ``"update"`` beside the tensors, for weights that change over a fit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses")  # abstract, every task overrides it

    def validate(self) -> dict[str, float]:
        """Return scores on held-out cases; ``"score"`` (higher is better) decides what is best."""
        return {}


@dataclass
class FitResult:
    """What came of a fit. ``updates`` counts those done; ``best`` is the best validation score, if any."""

    updates: int
    stopped_early: bool
    best: float | None
    best_update: int | None
    seconds: float


@dataclass
class _Progress:
    """The part of the state that is not tensors."""

    update: int = 0
    best: float | None = None
    best_update: int | None = None
    bad_validations: int = 0
    seconds: float = 0.0
    stopped_early: bool = False
    best_weights: dict[str, Tensor] = field(default_factory=dict)


def fit(task: Task, batches: Batches, settings: LoopSettings, run: RunFolder, title: str = "fit") -> FitResult:
    """Fit ``task`` in place and return what came of it; the same call again resumes or returns at once.

    Raises:
        RunError: a loss or gradient is not finite; the case names are in ``nonfinite.json``.
    """
    # Set up: device, optimisers, average, earlier state.
    fabric = make_fabric(run.device, settings.precision)
    mend_convolutions(task.to(fabric.device))
    average = MovingAverage(task, settings.ema) if settings.ema is not None else None
    players = task.players()
    optimizers = {
        name: torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for name, parameters in players.items()
    }
    progress = _resume(run, task, average, optimizers)
    model, *wrapped = fabric.setup(task, *optimizers.values())
    wrapped = dict(zip(optimizers, wrapped))
    start, saved = time.monotonic(), time.monotonic()
    done_before_s = progress.seconds
    run.progress.start(title, settings.updates, progress.update)

    # Walk.
    for batch in _load(fabric, batches, settings, progress):
        if progress.stopped_early:
            break
        torch.manual_seed(derive_seed("update", run.seed, progress.update, fabric.global_rank))
        rate = learning_rate(settings, progress.update)
        losses: dict[str, float] = {}
        model.train()
        for name, optimizer in wrapped.items():
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses |= _step(fabric, model, optimizer, batch, name, players[name], settings, run)
        if average is not None:
            average.update(task)
        progress.update += 1

        # Validate, keep the best, stop when nothing improves.
        record = {"update": progress.update, **losses, "learning_rate": rate}
        last = progress.update == settings.updates
        if settings.validate_every and (progress.update % settings.validate_every == 0 or last):
            record |= _validate(average.module if average else task, progress, settings)
        progress.seconds = done_before_s + time.monotonic() - start

        # Log and save.
        if fabric.is_global_zero:
            run.log(record | {"seconds": round(progress.seconds, 3)})
            if time.monotonic() - saved >= settings.checkpoint_every_s or last or progress.stopped_early:
                _save(run.path, task, average, optimizers, progress)
                saved = time.monotonic()
        run.progress.advance(1, **{key: record[key] for key in ("loss", "score") if key in record})

    # Finish: the average, or the best weights where a validation chose them, go into the task.
    fitted = average.module if average else task
    if progress.best_weights:
        fitted.load_state_dict(progress.best_weights)
    task.load_state_dict(fitted.state_dict())
    task.eval()
    return FitResult(progress.update, progress.stopped_early, progress.best, progress.best_update, progress.seconds)


def learning_rate(settings: LoopSettings, update: int) -> float:
    """Return the learning rate of ``update`` (0-based): linear warm-up, then constant or half a cosine to 0.

    >>> s = LoopSettings(updates=10, learning_rate=1.0, warmup=2, decay="cosine")
    >>> [round(learning_rate(s, u), 2) for u in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if update < settings.warmup:
        return settings.learning_rate * (update + 1) / settings.warmup
    if settings.decay == "constant":
        return settings.learning_rate
    past = (update - settings.warmup) / max(1, settings.updates - settings.warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * past))


def _step(
    fabric: Fabric,
    model: nn.Module,
    optimizer: Any,
    batch: Mapping[str, Any],
    player: str,
    parameters: list[nn.Parameter],
    settings: LoopSettings,
    run: RunFolder,
) -> dict[str, float]:
    """One optimiser step of one player over ``accumulate`` passes; returns its mean losses."""
    totals: dict[str, float] = {}
    optimizer.zero_grad(set_to_none=True)
    parts = _cut(batch, settings.accumulate)
    for i, part in enumerate(parts):
        with fabric.no_backward_sync(model, enabled=i + 1 < len(parts)):
            losses = model(part, player)
            fabric.backward(losses["loss"] / len(parts))
        for key, value in losses.items():
            totals[key] = totals.get(key, 0.0) + float(value.detach()) / len(parts)
    limit = settings.clip if settings.clip is not None else math.inf
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    if not math.isfinite(norm) or not all(map(math.isfinite, totals.values())):
        _refuse(batch, totals, norm, player, run)
    optimizer.step()
    return (
        totals if player == "model" else {f"{player}_{key}" if key == "loss" else key: v for key, v in totals.items()}
    )


def _refuse(batch: Mapping[str, Any], losses: dict[str, float], norm: float, player: str, run: RunFolder) -> None:
    facts = {
        "cases": list(batch["names"]),
        "update": batch["update"],
        "player": player,
        "losses": {key: str(value) for key, value in losses.items()},
        "gradient_norm": str(norm),
    }
    write_json(run.file("nonfinite.json"), facts)
    raise RunError(
        f"update {batch['update']} has a loss or gradient that is not finite (cases {', '.join(facts['cases'])}; "
        f"details in {run.file('nonfinite.json')}). Try 'voxpair check', or a lower learning rate."
    )


def _cut(batch: Mapping[str, Any], parts: int) -> list[dict[str, Any]]:
    """Cut tensors and name lists along the batch axis into ``parts`` pieces of nearly equal size."""
    if parts == 1:
        return [dict(batch)]
    size = math.ceil(len(batch["names"]) / parts)
    return [
        {key: value[i : i + size] if isinstance(value, Tensor | list) else value for key, value in batch.items()}
        for i in range(0, len(batch["names"]), size)
    ]


def _validate(module: Task, progress: _Progress, settings: LoopSettings) -> dict[str, float]:
    module.eval()
    with torch.inference_mode():
        scores = module.validate()
    if "score" in scores:
        if progress.best is None or scores["score"] > progress.best:
            progress.best, progress.best_update, progress.bad_validations = scores["score"], progress.update, 0
            progress.best_weights = {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
        else:
            progress.bad_validations += 1
        progress.stopped_early = settings.patience is not None and progress.bad_validations >= settings.patience
    return scores


class _Updates(Dataset):
    """Batches as a dataset: item *t* is the whole batch of update *t*, so loader workers share out updates."""

    def __init__(self, batches: Batches, updates: int, rank: int, world_size: int) -> None:
        self.batches, self.updates, self.rank, self.world_size = batches, updates, rank, world_size

    def __len__(self) -> int:
        return self.updates

    def __getitem__(self, update: int) -> dict[str, Any]:
        return {**self.batches.batch(update, self.rank, self.world_size), "update": update}


def _load(fabric: Fabric, batches: Batches, settings: LoopSettings, progress: _Progress) -> Iterator[dict[str, Any]]:
    if progress.stopped_early:
        return
    updates = _Updates(batches, settings.updates, fabric.global_rank, fabric.world_size)
    remaining = range(progress.update, settings.updates)
    loader = DataLoader(updates, batch_size=None, sampler=remaining, num_workers=settings.workers)
    for batch in loader:
        yield {k: v.to(fabric.device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _save(
    folder: Path, task: Task, average: MovingAverage | None, optimizers: Mapping[str, Any], progress: _Progress
) -> None:
    save_checkpoint(
        folder,
        "checkpoint",
        {
            "update": progress.update,
            "progress": vars(progress),
            "task": task.state_dict(),
            "average": {"updates": average.updates, "task": average.module.state_dict()} if average else None,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        },
    )


def _resume(
    run: RunFolder, task: Task, average: MovingAverage | None, optimizers: Mapping[str, torch.optim.Optimizer]
) -> _Progress:
    if not has_checkpoint(run.path, "checkpoint"):
        run.file("metrics.jsonl").unlink(missing_ok=True)
        return _Progress()
    state = load_checkpoint(run.path, "checkpoint")
    log = [record for record in read_log(run.file("metrics.jsonl")) if record["update"] <= state["update"]]
    write_text(run.file("metrics.jsonl"), "".join(json.dumps(record) + "\n" for record in log))
    task.load_state_dict(state["task"])
    if average is not None:
        average.updates = state["average"]["updates"]
        average.module.load_state_dict(state["average"]["task"])
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    return _Progress(**state["progress"])
