"""Masked image modelling: a network learns anatomy by painting what was hidden from it. No labels are used.

Takes cohorts (real, synthetic, labelled or not: only their images are read); gives ``encoder.safetensors`` and
``encoder.json`` in the run folder, which a segmenter starts from.

    symbol   here         meaning
    x        image        volume in [0, 1]
    x~       hide(...)    the same with hidden voxels set to 0
    f        network      the segmenter's network with one output channel

Source: Ikuta et al. 2024, section 3.3: L = E |x - f(x~)|_2 over the whole volume, AdamW with 1e-3, a tenth of the
cases for validation, early stopping after 50 validations without gain. The default loss looks at hidden voxels only
(He et al. 2022, "Masked Autoencoders"): the paper's is dominated by voxels that need only be copied.

Shapes: B batch, X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from voxpair.cohorts.augment import SpatialIntensityAugmentation, SpatialIntensitySettings
from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import CaseBatches, PreparedCohort, draw
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.cohorts.splits import patients_behind
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, derive_seed
from voxpair.core.settings import Settings
from voxpair.networks.backbones import BackboneSettings, Patch, build, check_patch, save_encoder
from voxpair.pretraining.masking import MaskSettings, draw_mask, hide
from voxpair.training.loop import FitResult, LoopSettings, Task, fit

LIGHT = SpatialIntensitySettings(
    spatial=0.5,
    rotation_degrees=10,
    scale=1.1,
    elastic_mm=0,
    noise_probability=0,  # noise and blur would ask the network to paint what cannot be known
    blur_probability=0,
)
_NO_LABELS = LabelTable("none", ())


class PretrainSettings(Settings):
    """How an encoder is pre-trained. Backbone, preprocessing and patch should be those of the segmenter to come.

    Attributes:
        backbone: the network; its head has one output channel here.
        preprocess: grid and intensities.
        patch: voxels of a training patch along X, Y, Z; None takes the whole grid.
        masking: what is hidden.
        loss: "hidden" is the mean squared error over hidden voxels, "whole" the papers' L2 norm over all voxels,
            divided by the square root of their number.
        validation_fraction: share of the cases, by patient, that only judges; 0 judges by nothing.
        augmentation: changes of space and intensity before masking; None for none.
        loop: ``patience`` counts validations, as the papers' counts epochs.
    """

    backbone: BackboneSettings = BackboneSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    patch: Patch | None = None
    masking: MaskSettings = MaskSettings()
    loss: Literal["hidden", "whole"] = "hidden"
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    augmentation: SpatialIntensitySettings | None = LIGHT
    loop: LoopSettings = LoopSettings(updates=2000, learning_rate=1e-3, validate_every=50, patience=50)


@dataclass(frozen=True)
class PretrainResult:
    """What came of a pre-training: where the encoder lies, the digest of its weights, and how the fit went."""

    folder: Path
    weights_sha256: str
    training_cases: int
    validation_cases: int
    fit: FitResult


def pretrain(cohorts: Sequence[Cohort], settings: PretrainSettings, run: RunFolder) -> PretrainResult:
    """Learn an encoder from the images of ``cohorts`` and write it into ``run``; the same call again resumes.

    Raises:
        InputError: no cases, or a patch that the network or the grid cannot hold.
        RunError: the loss is not finite.
    """
    patch = settings.patch or settings.preprocess.grid
    check_patch(settings.backbone, patch)
    if any(p > g for p, g in zip(patch, settings.preprocess.grid)):
        raise InputError(
            f"patch {patch} is larger than preprocess.grid {settings.preprocess.grid}; choose a smaller patch"
        )
    training, held_out = _prepare(cohorts, settings, run)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("network", run.seed))
        network = build(settings.backbone, 1, 1, patch)
    task = MaskedModelling(network, settings, held_out)
    batches = MaskedBatches(
        CaseBatches(
            training,
            settings.loop.batch_size,
            derive_seed("pretrain", run.seed),
            augment=SpatialIntensityAugmentation(settings.augmentation) if settings.augmentation else None,
            patch=patch,
        ),
        settings.masking,
    )
    result = fit(task, batches, settings.loop, run, "pretrain")
    facts = {
        "settings": settings.model_dump(mode="json"),
        "trained_on": [{"cohort": c.folder.name, "digest": c.digest(), "cases": len(c)} for c in cohorts],
        "patients": sorted(frozenset().union(*map(patients_behind, cohorts))),
        "updates": result.updates,
        "best_score": result.best,
    }
    sha256 = save_encoder(run.path, settings.backbone, task.network, facts)
    return PretrainResult(run.path, sha256, len(training), len(held_out) if held_out else 0, result)


class MaskedModelling(Task):
    """The network, its loss, and its judgement on cases it has not seen, always under the same masks."""

    def __init__(self, network: torch.nn.Module, settings: PretrainSettings, held_out: PreparedCohort | None) -> None:
        super().__init__()
        self.network, self.settings, self.held_out = network, settings, held_out

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        return {"loss": self._loss(batch["image"], batch["hidden"])}

    def validate(self) -> dict[str, float]:
        """Return the mean loss on the held-out cases, and its negative as the score."""
        if self.held_out is None:
            return {}
        device = next(self.network.parameters()).device
        losses = []
        for case in self.held_out:
            seed = derive_seed("validation", case.name)
            image = draw(case, seed, patch=self.settings.patch)["image"][None]
            hidden = draw_masks(self.settings.masking, image, [seed])
            losses.append(float(self._loss(image.to(device), hidden.to(device))))
        loss = float(np.mean(losses))
        return {"validation_loss": loss, "score": -loss}

    def _loss(self, image: Tensor, hidden: Tensor) -> Tensor:
        return reconstruction_loss(self.network(hide(image, hidden)), image, hidden, self.settings.loss)


@dataclass(frozen=True)
class MaskedBatches:
    """Batches of images with their masks, ``hidden`` (B, 1, X, Y, Z); a pure function of the update."""

    cases: CaseBatches
    masking: MaskSettings

    def batch(self, update: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
        batch = self.cases.batch(update, rank, world_size)
        seeds = [derive_seed("mask", self.cases.seed, update, rank, i) for i in range(len(batch["names"]))]
        hidden = draw_masks(self.masking, batch["image"], seeds)
        return {"image": batch["image"], "hidden": hidden, "names": batch["names"]}


def draw_masks(settings: MaskSettings, image: Tensor, seeds: Sequence[int]) -> Tensor:
    """Draw one mask per seed: bool, (B, 1, X, Y, Z) like ``image``, True = hidden."""
    grid = tuple(image.shape[2:])
    return torch.stack([draw_mask(settings, grid, torch.Generator().manual_seed(seed))[None] for seed in seeds])


def reconstruction_loss(predicted: Tensor, image: Tensor, hidden: Tensor, kind: Literal["hidden", "whole"]) -> Tensor:
    """Return the mean over volumes of the error that :class:`PretrainSettings` calls ``kind``.

    Args:
        predicted, image: shape (B, 1, X, Y, Z).
        hidden: bool, the same shape; a volume with nothing hidden adds 0 to "hidden".

    >>> image, hidden = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    >>> hidden[..., 0] = True
    >>> reconstruction_loss(torch.where(hidden, 0.5, 1.0), image, hidden, "hidden")
    tensor(0.2500)
    """
    squares = (predicted.float() - image).square().flatten(1)
    if kind == "whole":
        return squares.mean(dim=1).add(1e-12).sqrt().mean()  # the root's slope is infinite at 0
    weights = hidden.flatten(1)
    return ((squares * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)).mean()


def held_out_patients(cohorts: Sequence[Cohort], fraction: float, seed: int) -> set[str]:
    """Choose patients at random until they have at least ``fraction`` of all cases; never all patients."""
    cases = [record.patient for cohort in cohorts for record in cohort.records]
    patients = sorted(set(cases))
    order = np.random.default_rng(derive_seed("held out", seed)).permutation(len(patients))
    chosen: set[str] = set()
    for i in order[:-1]:
        if sum(patient in chosen for patient in cases) >= fraction * len(cases):
            break
        chosen.add(patients[i])
    return chosen


def _prepare(
    cohorts: Sequence[Cohort], settings: PretrainSettings, run: RunFolder
) -> tuple[PreparedCohort, PreparedCohort | None]:
    """Prepare the images, and part them by patient into those that teach and those that judge."""
    if not any(len(cohort) for cohort in cohorts):
        raise InputError("there are no cases to pre-train on: the cohorts given, or their training splits, are empty")
    chosen = held_out_patients(cohorts, settings.validation_fraction, run.seed)
    parts: tuple[list[PreparedCohort], list[PreparedCohort]] = ([], [])
    for cohort in cohorts:
        preprocessor = Preprocessor(settings.preprocess, _NO_LABELS, cohort.modality)
        for judging, part in enumerate(parts):
            records = tuple(
                replace(record, labels_path=None)
                for record in cohort.records
                if (record.patient in chosen) == bool(judging)
            )
            images = replace(cohort, records=records, label_table=_NO_LABELS)
            if records:
                part.append(PreparedCohort.build(images, preprocessor, run.cache, run.progress))
    training, held_out = parts
    return PreparedCohort.concat(*training), PreparedCohort.concat(*held_out) if held_out else None
