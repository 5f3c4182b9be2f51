"""The semantic diffusion refiner: a painted volume is noised a little and denoised by three models of real slices.

Takes a painted volume with its labels; gives the volume with the texture of real slices. Little noise (level 10 of
1000 in the paper, a standard deviation of 0.04 in [-1, 1]) leaves the anatomy where it is and replaces what is finer.

    eq.                       here
    MedGen3D, section 2.2     eps = eps(x_t | 0) + s (eps(x_t | c) - eps(x_t | 0))
    MedGen3D, section 3.2     the result is the mean of three walks, one per view             fusion "mean"
    ours                      one walk; eps is the mean of three views at every step          fusion "in_step"

    symbol     here          meaning
    x_t        noisy         the volume at noise level t, (1, 1, X, Y, Z)
    t_start    start         noise level of the painted volume
    c, 0       labels        class indices, and HIDDEN for the null condition
    s          guidance      1 follows the labels as learnt, more exaggerates them
    p          drop          how often the labels were hidden in the fit

Why in steps: the three walks of "mean" end in three textures that agree only where the painted volume has decided, and
the mean of three independent textures has a third of their variance. One walk has one texture, on which the three views
agree at every step, and loses none of it (as in TPDM, Lee et al. 2023, who alternate two views instead).

Source: Han et al. 2023 (MedGen3D), sections 2.2 and 3.2; Wang et al. 2022 (SDM), whose code is not used.

Shapes: X Y Z volume axes, S slices of a view, H W axes of a slice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from voxpair.cohorts.datasets import PreparedCohort
from voxpair.core.errors import InputError, RunError
from voxpair.core.run import RunFolder, derive_seed
from voxpair.core.settings import Settings
from voxpair.diffusion.sampler import guide
from voxpair.generators.medgen3d.slice_diffusion import (
    HIDDEN,
    SliceDiffusionSettings,
    SliceDiffusionTask,
    ViewNetworks,
    Walk,
    levels_down,
    walk_down,
)
from voxpair.generators.medgen3d.views import AXES, SliceBatches, View, from_slices, labelled, padded, to_slices
from voxpair.training.loop import fit

VolumeNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_11XYZ, time_1, labels_11XYZ) -> noise_11XYZ


class RefinerSettings(Settings):
    """How the refiner is fitted and used.

    The paper: start 10, steps None, sampler "ddpm", trained_to 1000, fusion "mean"; it names no drop and no guidance,
    those of SDM are 0.2 and 1.5.

    Attributes:
        diffusion: noise levels, networks and fit.
        trained_to: the highest noise level of the fit; what lies above ``start`` is never asked for.
        drop: p, how often the labels are hidden in the fit.
        start: t_start, the noise level of the painted volume. More replaces more of it: the noise is 2 % of the
            intensity window at level 10, 9 % at 50, 16 % at 100 (levels 1000, "linear"). Into a volume without any, the
            walk brings 40 %, 86 % and 97 % of a texture whose standard deviation is 5 % of the window.
        steps: at most so many from ``start`` to clean (see ``levels_down``); None takes every level.
        sampler: how they are walked; of few steps "dpm_solver" loses the least texture.
        guidance: s, the strength of the labels; above 1 it doubles the cost.
        fusion: "in_step" or "mean"; see the head of this file.
        slices_at_once: how many slices a network sees together, a matter of memory.
    """

    diffusion: SliceDiffusionSettings = SliceDiffusionSettings()
    trained_to: int = Field(100, ge=1)
    drop: float = Field(0.2, ge=0, lt=1)
    start: int = Field(50, ge=1)
    steps: int | None = Field(8, ge=1)
    sampler: Walk = "dpm_solver"
    guidance: float = Field(1.5, ge=1)
    fusion: Literal["in_step", "mean"] = "in_step"
    slices_at_once: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _check(self) -> RefinerSettings:
        if not self.start <= self.trained_to <= self.diffusion.levels:
            raise ValueError(
                "noise levels must be in the order start <= trained_to <= diffusion.levels, got "
                f"{self.start}, {self.trained_to}, {self.diffusion.levels}"
            )
        if self.guidance > 1 and not self.drop:
            raise ValueError(f"guidance {self.guidance:g} needs a fit that hid the labels at times: drop above 0")
        return self


class Refiner(nn.Module):
    """Three networks, one per view, and the walk that they take together.

    Args:
        classes: K, background included.
    """

    def __init__(self, settings: RefinerSettings, classes: int) -> None:
        super().__init__()
        self.settings, self.classes = settings, classes
        self.process = settings.diffusion.process(settings.trained_to)
        self.networks = ViewNetworks(settings.diffusion, classes)

    @torch.inference_mode()
    def refine(self, image: np.ndarray, classes: np.ndarray, seed: int) -> np.ndarray:
        """Return the refined image; it depends on weights, settings and the arguments alone.

        Args:
            image: (X, Y, Z) in [0, 1].
            classes: (X, Y, Z) class indices below K.

        Returns:
            (X, Y, Z) float32 in [0, 1].

        Raises:
            InputError: image and classes do not fit each other or this refiner.
            RunError: the fit has diverged.
        """
        self._check(image, classes)
        device = next(self.parameters()).device
        factor = self.settings.diffusion.factor
        painted = torch.from_numpy(padded(np.asarray(image, np.float32), factor)).to(device)[None, None]
        labels = torch.from_numpy(padded(np.asarray(classes, np.int64), factor)).to(device)[None, None]
        if self.settings.fusion == "in_step":
            refined = self._walk(self.predict, 2 * painted - 1, labels, derive_seed("refine", seed))
        else:
            walks = [
                self._walk(partial(self.predict_view, view), 2 * painted - 1, labels, derive_seed("refine", seed, view))
                for view in AXES
            ]
            refined = torch.stack(walks).mean(0)
        if not torch.isfinite(refined).all():
            raise RunError("the refined volume holds NaN or infinite values: the fit of the refiner has diverged")
        x, y, z = image.shape
        return ((refined + 1) / 2).clamp(0, 1)[0, 0, :x, :y, :z].cpu().numpy()

    def predict(self, noisy: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the mean of the noise that the three views see in a volume, (1, 1, X, Y, Z)."""
        return sum(self.predict_view(view, noisy, time, labels) for view in AXES) / len(AXES)

    def predict_view(self, view: View, noisy: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """Return the noise that one view sees in a volume, slice by slice.

        Args:
            noisy, labels: (1, 1, X, Y, Z).
            time: (1,) noise level.
        """
        network_time = self.process.network_time(time)
        parts = (to_slices(volume[0], view).split(self.settings.slices_at_once) for volume in (noisy, labels))
        outputs = [self.networks(view, part, network_time.expand(len(part)), seen) for part, seen in zip(*parts)]
        return from_slices(torch.cat(outputs), view)[None]

    def _walk(self, network: VolumeNetwork, clean: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Noise a volume to t_start and denoise it with ``network``."""
        s = self.settings
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=random).to(clean.device)
        noisy = self.process.corrupt(clean, noise, torch.tensor([s.start], device=clean.device))
        guided = guide(network, labels, torch.full_like(labels, HIDDEN), s.guidance)
        return walk_down(s.sampler, guided, self.process, noisy, levels_down(s.start, s.steps), [random])

    def _check(self, image: np.ndarray, classes: np.ndarray) -> None:
        if image.ndim != 3 or image.shape != classes.shape:
            raise InputError(
                f"an image and its labels must be volumes of one shape, got {image.shape} and {classes.shape}"
            )
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise InputError("the image to be refined must be finite and within [0, 1]; prepare it as for the fit")
        if classes.min() < 0 or classes.max() >= self.classes:
            raise InputError(
                f"this refiner was fitted for class indices 0 to {self.classes - 1}, got {classes.min()} to "
                f"{classes.max()}: labels of another table need a fit of their own"
            )


def fit_refiner(training: PreparedCohort, settings: RefinerSettings, run: RunFolder) -> Refiner:
    """Fit the three networks on real slices of their views, with the labels of those slices.

    Raises:
        InputError: no training case has labels.
    """
    torch.manual_seed(derive_seed("refiner", run.seed))
    refiner = make_refiner(settings, training.label_table.classes)
    diffusion = settings.diffusion
    batches = SliceBatches(
        labelled(training), diffusion.loop.batch_size, diffusion.factor, derive_seed("refiner slices", run.seed)
    )
    task = SliceDiffusionTask(refiner.networks, refiner.process, settings.drop)
    fit(task, batches, diffusion.loop, run, "refiner")
    return refiner.eval()


def make_refiner(settings: RefinerSettings, classes: int) -> Refiner:
    """Return a refiner without weights, for ``fit`` or ``load``."""
    return Refiner(settings, classes)
