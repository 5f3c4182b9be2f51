"""MedGen3D as one generator: labels first, then an image that follows them; it fits, samples, saves and loads.

Takes a split cohort; gives a stream of synthetic cases. The three steps learn from real cases alone, none from what
another makes, so each can be fitted and resumed on its own, in any order.

    RUN/prepared/                  training cases on the grid
    RUN/STEP/                      log, checkpoint, weights.safetensors

    MODEL/generator.json           settings and facts
    MODEL/STEP.safetensors

    step              learns
    mask_sequence     p(labels), slice by slice (MC-DPM)
    image_sequence    p(image | labels), slice after slice (Vid2Vid)
    refiner           the texture of slices of three views, given their labels

Source: Han et al. 2023, "MedGen3D: A Deep Generative Framework for Paired 3D Image and Mask Generation".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import model_validator
from torch import nn

from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.geometry import Geometry, Shape
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, derive_seed, make_folder
from voxpair.core.settings import Settings, digest
from voxpair.generators.description import Description
from voxpair.generators.fitting import Origin, claim_step, name_weights
from voxpair.generators.medgen3d.image_sequence import (
    ImageSequenceSettings,
    fit_image_sequence,
    make_image_sequence,
    too_small,
)
from voxpair.generators.medgen3d.mask_sequence import (
    MaskSampling,
    MaskSequenceSettings,
    fit_mask_sequence,
    make_mask_sequence,
)
from voxpair.generators.medgen3d.refiner import RefinerSettings, RefinerWalk, fit_refiner, make_refiner
from voxpair.training.state import load_weights, save_weights

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort

NAME = "medgen3d"
DEPTH = "depth"
"""The one condition: number of slices, over the same extent."""


class SamplingSettings(MaskSampling):
    """How a pair is drawn.

    Attributes:
        sampler, steps, guidance, first_window: of the labels, see ``MaskSampling``.
        refiner: of the image's texture, see ``RefinerWalk``.
        refined: False leaves the painted volume as it is, the paper's baseline "Vid2Vid".
    """

    refiner: RefinerWalk = RefinerWalk()
    refined: bool = True


class MedGen3DSettings(Settings):
    """All settings of the generator, by part. Every part's class says what its own mean."""

    preprocess: PreprocessSettings = PreprocessSettings()
    mask_sequence: MaskSequenceSettings = MaskSequenceSettings()
    image_sequence: ImageSequenceSettings = ImageSequenceSettings()
    refiner: RefinerSettings = RefinerSettings()
    sampling: SamplingSettings = SamplingSettings()

    @model_validator(mode="after")
    def _check(self) -> MedGen3DSettings:
        masks, (x, y, depth) = self.mask_sequence, self.preprocess.grid
        size = masks.slice_size or (x, y)
        if any(n % masks.downsampling for n in size):
            fitting = tuple(max(1, round(n / masks.downsampling)) * masks.downsampling for n in size)
            raise ValueError(
                f"masks are drawn on slices of {size[0]} x {size[1]}, whose sides must be multiples of "
                f"{masks.downsampling} (mask_sequence.channels has {len(masks.channels)} levels); set "
                f"mask_sequence.slice_size, {fitting} would do"
            )
        if round(depth * masks.depth_range[0]) < masks.window:
            raise ValueError(
                f"a window has {masks.window} slices, but volumes get as short as "
                f"{round(depth * masks.depth_range[0])}: take a smaller mask_sequence.window or a larger grid"
            )
        if self.sampling.steps > masks.levels:
            raise ValueError(
                f"sampling.steps {self.sampling.steps} is above the number of noise levels, "
                f"mask_sequence.levels {masks.levels}"
            )
        if reason := too_small((x, y, depth), self.image_sequence) or self.refiner.why_not(self.sampling.refiner):
            raise ValueError(reason)
        return self


class MedGen3D:
    """Learns p(labels) p(image | labels) and draws from it; keeps ``core.interfaces.PairGenerator``.

    Args:
        modality: "CT" or "MRI", of the cohorts it is fitted on and of its samples.
    """

    steps: ClassVar[tuple[str, ...]] = ("mask_sequence", "image_sequence", "refiner")

    def __init__(self, settings: MedGen3DSettings, label_table: LabelTable, modality: str) -> None:
        self.settings, self.label_table, self.modality = settings, label_table, modality
        self.preprocessor = Preprocessor(settings.preprocess, label_table, modality)
        self._networks: dict[str, Any] = {}
        self._origin: Origin | None = None
        self.digest = ""
        """SHA-256 of weights and facts once fitted or loaded."""

    def fit(self, cohort: Cohort, run: RunFolder, *, steps: Sequence[str] | None = None) -> None:
        """Fit on the annotated cases in split "train"; the same call again resumes, finished steps are loaded.

        Args:
            steps: some of ``MedGen3D.steps``, in any order and any number of calls; all by default. Once all are
                finished in ``run``, the generator is fitted.

        Raises:
            InputError: the cohort is not split; another fit lies in ``run``; an unknown step; no labels.
        """
        steps = self.steps if steps is None else steps
        if unknown := set(steps) - set(self.steps):
            raise InputError(f"no step {sorted(unknown)[0]!r} in fitting {NAME}; it has {', '.join(self.steps)}")
        training = cohort.split("train")
        prepared = PreparedCohort.build(training, self.preprocessor, run.cache, run.progress)
        data = [training.digest(), self.preprocessor.digest(), run.seed]
        for step in self.steps:
            self._fit_step(step, prepared, run.child(step), data, wanted=step in steps)
        if len(self._networks) == len(self.steps):
            self._finish(Origin.of(prepared))

    def sample(
        self, count: int, *, seed: int, condition: Mapping[str, Any] | None = None, first: int = 0
    ) -> Iterator[Case]:
        """Stream cases ``first`` to ``count - 1``; case *i* depends on (weights, seed, i, condition) alone.

        Args:
            condition: ``{"depth": 80}`` for volumes of 80 slices over the extent of the grid.

        Raises:
            InputError: at once, for another condition, or a depth that the label model was not fitted for.
        """
        origin = self._fitted_origin()
        condition = dict(condition or {})
        shape = (*self.settings.preprocess.grid[:2], self._depth(condition))
        self._networks["mask_sequence"].check(shape)
        return (self._draw(i, seed, shape, condition, origin) for i in range(first, count))

    @property
    def training_patients(self) -> list[str]:
        return list(self._fitted_origin().training_patients)

    def save(self, folder: Path) -> None:
        """Write weights and ``generator.json``, which is written last."""
        origin = self._fitted_origin()
        folder = make_folder(Path(folder))
        for step in self.steps:
            save_weights(folder / f"{step}.safetensors", self._networks[step])
        settings = self.settings.model_dump(mode="json")
        Description(NAME, self.digest, self.modality, self.label_table, settings, asdict(origin)).write(folder)

    @classmethod
    def load(cls, folder: Path, *, device: str) -> MedGen3D:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no generator of this kind, or its files do not belong together.
        """
        folder = Path(folder)
        saved = Description.read(folder, NAME)
        model = cls(MedGen3DSettings.model_validate(saved.settings), saved.label_table, saved.modality)
        for step in cls.steps:
            model._load_step(step, folder / f"{step}.safetensors", device)
        model._finish(Origin.from_json(saved.facts))
        model.digest = saved.check((model._networks[step] for step in cls.steps), folder)
        return model

    def _fit_step(self, step: str, training: PreparedCohort, run: RunFolder, data: list[Any], *, wanted: bool) -> None:
        part, weights = getattr(self.settings, step), run.file("weights.safetensors")
        inputs = digest([part.model_dump(mode="json"), data])
        if run.is_done(inputs):
            self._load_step(step, weights, run.device)
            return
        if not wanted:
            return
        claim_step(run, inputs)
        fit_step, _ = _functions(step)
        self._networks[step] = fit_step(training, part, run).eval()
        save_weights(weights, self._networks[step])
        run.mark_done(inputs)

    def _load_step(self, step: str, weights: Path, device: str) -> None:
        _, make = _functions(step)
        network = make(getattr(self.settings, step), self.label_table.classes)
        load_weights(weights, network)
        self._networks[step] = network.to(device).eval()

    def _finish(self, origin: Origin) -> None:
        self._origin = origin
        content = [asdict(origin), self.settings.model_dump(mode="json")]
        self.digest = name_weights(content, (self._networks[step] for step in self.steps))

    def _fitted_origin(self) -> Origin:
        if self._origin is None:
            raise InputError("this generator is not fitted: fit all its steps, or load a fitted one")
        return self._origin

    def _depth(self, condition: Mapping[str, Any]) -> int:
        if unknown := set(condition) - {DEPTH}:
            raise InputError(f"no condition {sorted(unknown)[0]!r} for {NAME}; known are {DEPTH}")
        asked = condition.get(DEPTH, self.settings.preprocess.grid[2])
        try:
            return int(str(asked))
        except ValueError:
            raise InputError(f"the condition {DEPTH} is a whole number of slices, got {asked!r}") from None

    def _draw(self, index: int, seed: int, shape: Shape, condition: dict[str, Any], origin: Origin) -> Case:
        def seed_of(step: str) -> int:
            return derive_seed("sample", step, seed, index)

        sampling, networks = self.settings.sampling, self._networks
        labels = networks["mask_sequence"].sample(shape, seed_of("mask_sequence"), sampling)
        image = networks["image_sequence"].paint(labels, seed_of("image_sequence"))
        if sampling.refined:
            image = networks["refiner"].refine(image, labels, seed_of("refiner"), sampling.refiner)
        if not np.isfinite(image).all():
            raise RunError(f"synthetic case {index} of seed {seed} holds NaN or infinite values: the fit has diverged")
        name = f"synthetic_{index:05d}"
        return self.preprocessor.restore(
            image,
            labels,
            self._geometry(shape, origin),
            name=name,
            patient=name,
            source="synthetic",
            provenance={
                "generator": NAME,
                "weights": self.digest,
                "seed": seed,
                "index": index,
                "condition": condition,
            },
        )

    def _geometry(self, shape: Shape, origin: Origin) -> Geometry:
        """Fewer slices than the grid has are thicker: the extent stays."""
        x, y, z = origin.spacing_mm
        thickness = z * self.settings.preprocess.grid[2] / shape[2]
        return Geometry.synthetic(shape, (x, y, thickness), origin.intensity_low, origin.intensity_high)


def _functions(step: str) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Return how a step is fitted, and how its network is made to load weights into."""
    return {
        "mask_sequence": (fit_mask_sequence, make_mask_sequence),
        "image_sequence": (fit_image_sequence, make_image_sequence),
        "refiner": (fit_refiner, make_refiner),
    }[step]
