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


class RefinerWalk(Settings):
    """How a painted volume is refined by fitted networks.

    The paper: start 10, steps None, sampler "ddpm", fusion "mean"; it names no guidance, that of SDM is 1.5.

    Attributes:
        start: t_start, the noise level of the painted volume. More replaces more of it: the noise is 2 % of the
            intensity window at level 10, 9 % at 50, 16 % at 100 (levels 1000, "linear"). Into a volume without any, the
            walk brings 40 %, 86 % and 97 % of a texture whose standard deviation is 5 % of the window.
        steps: at most so many from ``start`` to clean (see ``levels_down``); None takes every level.
        sampler: how they are walked; of few steps "dpm_solver" loses the least texture.
        guidance: s, the strength of the labels; above 1 it doubles the cost.
        fusion: "in_step" or "mean"; see the head of this file.
        slices_at_once: how many slices a network sees together, a matter of memory.
    """

    start: int = Field(50, ge=1)
    steps: int | None = Field(8, ge=1)
    sampler: Walk = "dpm_solver"
    guidance: float = Field(1.5, ge=1)
    fusion: Literal["in_step", "mean"] = "in_step"
    slices_at_once: int = Field(16, ge=1)


class RefinerSettings(Settings):
    """How the networks of the refiner are fitted.

    The paper: trained_to 1000; it names no drop, that of SDM is 0.2.

    Attributes:
        diffusion: noise levels, networks and fit.
        trained_to: the highest noise level of the fit, and of any walk.
        drop: p, how often the labels are hidden in the fit.
    """

    diffusion: SliceDiffusionSettings = SliceDiffusionSettings()
    trained_to: int = Field(100, ge=1)
    drop: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> RefinerSettings:
        if self.trained_to > self.diffusion.levels:
            raise ValueError(f"trained_to {self.trained_to} is above the levels of diffusion, {self.diffusion.levels}")
        return self

    def why_not(self, walk: RefinerWalk) -> str:
        """Return why networks fitted in this way cannot take ``walk``, nothing where they can.

        >>> RefinerSettings(trained_to=100).why_not(RefinerWalk(start=200))
        'the refiner was fitted up to noise level 100 (refiner.trained_to), its walk would begin at 200'
        """
        if walk.start > self.trained_to:
            return (
                f"the refiner was fitted up to noise level {self.trained_to} (refiner.trained_to), "
                f"its walk would begin at {walk.start}"
            )
        if walk.guidance > 1 and not self.drop:
            return f"guidance {walk.guidance:g} of the refiner needs a fit that hid the labels at times: refiner.drop"
        return ""


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
    def refine(self, image: np.ndarray, classes: np.ndarray, seed: int, walk: RefinerWalk | None = None) -> np.ndarray:
        """Return the refined image; it depends on weights and arguments alone.

        Args:
            image: (X, Y, Z) in [0, 1].
            classes: (X, Y, Z) class indices below K.

        Returns:
            (X, Y, Z) float32 in [0, 1].

        Raises:
            InputError: image and classes do not fit each other or this refiner, or the walk does not fit its fit.
            RunError: the fit has diverged.
        """
        walk = walk or RefinerWalk()
        self._check(image, classes, walk)
        device = next(self.parameters()).device
        factor = self.settings.diffusion.factor
        painted = torch.from_numpy(padded(np.asarray(image, np.float32), factor)).to(device)[None, None]
        labels = torch.from_numpy(padded(np.asarray(classes, np.int64), factor)).to(device)[None, None]
        clean, at_once = 2 * painted - 1, walk.slices_at_once
        if walk.fusion == "in_step":
            network = partial(self.predict, slices_at_once=at_once)
            refined = self._walk(walk, network, clean, labels, derive_seed("refine", seed))
        else:
            networks = {view: partial(self.predict_view, view, slices_at_once=at_once) for view in AXES}
            walks = (
                self._walk(walk, network, clean, labels, derive_seed("refine", seed, view))
                for view, network in networks.items()
            )
            refined = torch.stack(list(walks)).mean(0)
        if not torch.isfinite(refined).all():
            raise RunError("the refined volume holds NaN or infinite values: the fit of the refiner has diverged")
        x, y, z = image.shape
        return ((refined + 1) / 2).clamp(0, 1)[0, 0, :x, :y, :z].cpu().numpy()

    def predict(self, noisy: Tensor, time: Tensor, labels: Tensor, slices_at_once: int = 16) -> Tensor:
        """Return the mean of the noise that the three views see in a volume, (1, 1, X, Y, Z)."""
        return sum(self.predict_view(view, noisy, time, labels, slices_at_once) for view in AXES) / len(AXES)

    def predict_view(self, view: View, noisy: Tensor, time: Tensor, labels: Tensor, slices_at_once: int = 16) -> Tensor:
        """Return the noise that one view sees in a volume, slice by slice.

        Args:
            noisy, labels: (1, 1, X, Y, Z).
            time: (1,) noise level.
        """
        network_time = self.process.network_time(time)
        parts = (to_slices(volume[0], view).split(slices_at_once) for volume in (noisy, labels))
        outputs = [self.networks(view, part, network_time.expand(len(part)), seen) for part, seen in zip(*parts)]
        return from_slices(torch.cat(outputs), view)[None]

    def _walk(self, walk: RefinerWalk, network: VolumeNetwork, clean: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Noise a volume to t_start and denoise it with ``network``."""
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(clean.shape, generator=random).to(clean.device)
        noisy = self.process.corrupt(clean, noise, torch.tensor([walk.start], device=clean.device))
        guided = guide(network, labels, torch.full_like(labels, HIDDEN), walk.guidance)
        return walk_down(walk.sampler, guided, self.process, noisy, levels_down(walk.start, walk.steps), [random])

    def _check(self, image: np.ndarray, classes: np.ndarray, walk: RefinerWalk) -> None:
        if reason := self.settings.why_not(walk):
            raise InputError(reason)
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
