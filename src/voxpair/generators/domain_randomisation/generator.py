"""Domain randomisation: label maps of real patients, deformed and painted anew. The cheap rival of what is learnt.

Takes a split cohort; gives a stream of synthetic cases. No network is fitted: a fit keeps label maps and measures how
bright their classes are, and a sample is

    map j, at random -> rotated, scaled, sheared, bent -> painted m_k + s_k t -> blur, shading, noise

    RUN/prepared/                           training cases on the grid
    RUN/label_maps/weights.safetensors      what the one step keeps

    MODEL/generator.json                    settings and facts
    MODEL/label_maps.safetensors            the label maps and the brightness of their classes

**The file of a fitted generator is patient data.** It holds the label maps of training patients and, where nobody has
annotated, their images in a few steps of grey. Every label map drawn from it is a copy of a patient's up to the
deformation, by construction: an audit that finds copies is right.

    symbol   name        meaning
    m_k      level       middle of class k in [0, 1]
    s_k      spread      standard deviation within class k
    t        texture     Gaussian field of mean 0 and standard deviation 1

Source: Billot et al. 2023, "SynthSeg", Med. Image Anal. 86:102789 (PMC10154424): labels deformed, intensities from a
Gaussian mixture with random parameters, bias field, blur. Theirs is m_k and s_k from one uniform prior for all classes
("random"), and t is white; ours are "fitted" and a correlated t, since a blur takes most of a white one away. Left out
are their flips, for bodies have sides, and their random resolutions.

Shapes: N maps, K painted classes, X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy import ndimage

from voxpair.cohorts.augment import SpatialIntensityAugmentation, SpatialIntensitySettings
from voxpair.cohorts.datasets import PreparedCase, PreparedCohort
from voxpair.cohorts.geometry import Geometry
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import Progress, RunFolder, derive_seed, make_folder
from voxpair.core.settings import Settings, digest
from voxpair.generators.description import Description
from voxpair.generators.domain_randomisation.label_maps import LabelMaps, classes_to_paint
from voxpair.generators.fitting import Origin, claim_step, name_weights
from voxpair.training.state import load_weights, save_weights

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort

Fraction = Annotated[float, Field(ge=0, le=1)]
Sigma = Annotated[float, Field(ge=0)]

NAME = "domain_randomisation"


class DomainRandomisationSettings(Settings):
    """All settings of the generator.

    Attributes:
        background_classes: intensity classes into which each case's unlabelled part is divided, from dark to bright;
            1 paints it flat.
        background_smoothing_voxels: sigma of the blur before that division, so that a scan's noise is no class.
        intensities: "fitted" draws levels and spreads as they vary over the training cases, all classes together, so
            that what gets bright with contrast agent gets bright at once; "random" draws each class on its own from
            the two ranges below, whatever the scanner.
        level_range, spread_range: uniform priors of "random", in units of the intensity window.
        blur_voxels: sigma of the blur of the painted image is drawn between these.
        texture_voxels: sigma of the correlation within a class; 0 makes it white.
        augmentation: its changes of space are made to the label map, its changes of intensity to the painted image.
            Its own blur is off: ``blur_voxels`` is drawn for every volume.
    """

    preprocess: PreprocessSettings = PreprocessSettings()
    background_classes: int = Field(5, ge=1, le=6)
    background_smoothing_voxels: float = Field(0.7, ge=0)
    intensities: Literal["fitted", "random"] = "fitted"
    level_range: tuple[Fraction, Fraction] = (0.1, 0.9)
    spread_range: tuple[Fraction, Fraction] = (0.02, 0.1)
    blur_voxels: tuple[Sigma, Sigma] = (0.3, 0.8)
    texture_voxels: float = Field(0.7, ge=0, le=4)
    augmentation: SpatialIntensitySettings = SpatialIntensitySettings(
        spatial=1.0,
        rotation_degrees=20.0,
        scale=1.25,
        shear=0.1,
        elastic_mm=2.0,
        gamma_probability=0.0,
        brightness_probability=0.0,
        noise_probability=0.5,
        blur_probability=0.0,
        shading_probability=0.5,
        shading=0.2,
    )

    @model_validator(mode="after")
    def _check(self) -> DomainRandomisationSettings:
        for name in ("level_range", "spread_range", "blur_voxels"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be (lower, upper), got ({low}, {high})")
        return self

    @property
    def deformation(self) -> SpatialIntensitySettings:
        """The changes of space alone."""
        changes = ("gamma", "brightness", "noise", "blur", "shading")
        return self.augmentation.model_copy(update={f"{change}_probability": 0.0 for change in changes})

    @property
    def scanner(self) -> SpatialIntensitySettings:
        """The changes of intensity alone."""
        return self.augmentation.model_copy(update={"spatial": 0.0, "flip_axes": ()})


def domain_randomisation_settings(preset: str, preprocess: PreprocessSettings) -> DomainRandomisationSettings:
    """Return the settings of a preset on its grid; in "paper" and "NAME-paper" SynthSeg's intensities.

    >>> domain_randomisation_settings("demo-paper", PreprocessSettings()).intensities
    'random'
    """
    literal = {"intensities": "random", "texture_voxels": 0.0} if preset.endswith("paper") else {}
    return DomainRandomisationSettings(preprocess=preprocess, **literal)


class DomainRandomisation:
    """Keeps label maps and paints them at random; keeps ``core.interfaces.PairGenerator``. Runs on the processor.

    Args:
        modality: "CT" or "MRI", of the cohorts it is fitted on and of its samples.
    """

    steps: ClassVar[tuple[str, ...]] = ("label_maps",)

    def __init__(self, settings: DomainRandomisationSettings, label_table: LabelTable, modality: str) -> None:
        self.settings, self.label_table, self.modality = settings, label_table, modality
        self.preprocessor = Preprocessor(settings.preprocess, label_table, modality)
        self._kept: LabelMaps | None = None
        self._origin: Origin | None = None
        self.digest = ""
        """SHA-256 of weights and facts once fitted or loaded."""

    def fit(self, cohort: Cohort, run: RunFolder, *, steps: Sequence[str] | None = None) -> None:
        """Keep the label maps of the annotated cases in split "train"; the same call again loads what it finished.

        Raises:
            InputError: the cohort is not split; another fit lies in ``run``; an unknown step; no labels.
        """
        s, steps = self.settings, self.steps if steps is None else steps
        if unknown := set(steps) - set(self.steps):
            raise InputError(f"no step {sorted(unknown)[0]!r} in fitting {NAME}; it has {', '.join(self.steps)}")
        training = cohort.split("train")
        if not steps:
            return
        prepared = PreparedCohort.build(training, self.preprocessor, run.file("prepared"), run.progress)
        child = run.child("label_maps")
        inputs = digest([training.digest(), self.preprocessor.digest(), s.model_dump(mode="json"), run.seed])
        labelled = self._labelled(prepared, run.progress)
        kept = self._make(len(labelled))
        if child.is_done(inputs):
            load_weights(child.file("weights.safetensors"), kept)
        else:
            claim_step(child, inputs)
            run.progress.start("label maps", len(labelled))
            for index, case in enumerate(labelled):
                kept.put(index, classes_to_paint(case, s.background_classes, s.background_smoothing_voxels), case.image)
                run.progress.advance()
            save_weights(child.file("weights.safetensors"), kept)
            child.mark_done(inputs)
        self._finish(kept, Origin.of(prepared))

    def sample(
        self, count: int, *, seed: int, condition: Mapping[str, Any] | None = None, first: int = 0
    ) -> Iterator[Case]:
        """Stream cases ``first`` to ``count - 1``; case *i* depends on (weights, seed, i) alone.

        Raises:
            InputError: at once, for any condition.
        """
        kept, origin = self._fitted()
        if condition:
            raise InputError(f"{NAME} takes no conditions, got {', '.join(condition)}; leave them out")
        return (self._draw(i, seed, kept, origin) for i in range(first, count))

    @property
    def training_patients(self) -> list[str]:
        return list(self._fitted()[1].training_patients)

    def save(self, folder: Path) -> None:
        """Write the label maps and ``generator.json``, which is written last."""
        kept, origin = self._fitted()
        folder = make_folder(Path(folder))
        save_weights(folder / "label_maps.safetensors", kept)
        settings = self.settings.model_dump(mode="json")
        Description(NAME, self.digest, self.modality, self.label_table, settings, _facts(kept, origin)).write(folder)

    @classmethod
    def load(cls, folder: Path, *, device: str) -> DomainRandomisation:
        """Read what :meth:`save` wrote; ``device`` is of no consequence.

        Raises:
            InputError: the folder holds no generator of this kind, or its files do not belong together.
        """
        folder = Path(folder)
        saved = Description.read(folder, NAME)
        model = cls(DomainRandomisationSettings.model_validate(saved.settings), saved.label_table, saved.modality)
        origin = dict(saved.facts)
        kept = model._make(origin.pop("label_maps"))
        load_weights(folder / "label_maps.safetensors", kept)
        model._finish(kept, Origin.from_json(origin))
        model.digest = saved.check([kept], folder)
        return model

    def _labelled(self, prepared: PreparedCohort, progress: Progress) -> list[PreparedCase]:
        cases = list(prepared)
        labelled = [case for case in cases if case.labels is not None]
        if not prepared.class_counts()[1:].any():
            raise InputError(
                f"{NAME} paints label maps, but none of the {len(cases)} training cases has a labelled voxel. "
                "Label some, or pass --pseudo-labels."
            )
        if left_out := [case.name for case in cases if case.labels is None]:
            without = f"{len(left_out)} of {len(cases)} training cases have no labels"
            progress.say(f"{without} and are left out: {', '.join(left_out)}.")
        return labelled

    def _make(self, count: int) -> LabelMaps:
        classes = self.settings.background_classes + self.label_table.classes - 1
        if classes > 256:
            raise InputError(
                f"{classes} classes would be painted (background_classes {self.settings.background_classes} and "
                f"{self.label_table.classes - 1} structures), 256 at most; take fewer background_classes"
            )
        return LabelMaps(count, self.settings.preprocess.grid, classes)

    def _finish(self, kept: LabelMaps, origin: Origin) -> None:
        self._kept, self._origin = kept, origin
        self.digest = name_weights([_facts(kept, origin), self.settings.model_dump(mode="json")], [kept])

    def _fitted(self) -> tuple[LabelMaps, Origin]:
        if self._kept is None or self._origin is None:
            raise InputError("this generator is not fitted: fit it, or load a fitted one")
        return self._kept, self._origin

    def _draw(self, index: int, seed: int, kept: LabelMaps, origin: Origin) -> Case:
        s = self.settings
        random = np.random.default_rng(derive_seed("sample", seed, index))
        which = int(random.integers(len(kept.maps)))
        seeds = [derive_seed("sample", part, seed, index) for part in ("deformation", "scanner")]
        still = kept.maps[which][None]
        deform = SpatialIntensityAugmentation(s.deformation)
        _, moved = deform(torch.zeros(still.shape), still, seeds[0], origin.spacing_mm)
        classes = moved[0].numpy()
        painted = torch.from_numpy(self._paint(classes, kept, random))[None]
        image, _ = SpatialIntensityAugmentation(s.scanner)(painted, moved, seeds[1], origin.spacing_mm)
        name = f"synthetic_{index:05d}"
        return self.preprocessor.restore(
            image[0].numpy(),
            np.maximum(classes.astype(int) - (s.background_classes - 1), 0).astype(np.uint8),
            Geometry.synthetic(s.preprocess.grid, origin.spacing_mm, origin.intensity_low, origin.intensity_high),
            name=name,
            patient=name,
            source="synthetic",
            provenance={
                "generator": NAME,
                "weights": self.digest,
                "seed": seed,
                "index": index,
                "condition": {},
                "label_map": which,
            },
        )

    def _paint(self, classes: np.ndarray, kept: LabelMaps, random: np.random.Generator) -> np.ndarray:
        """Return m_k + s_k t, blurred: (X, Y, Z) float32."""
        s = self.settings
        if s.intensities == "fitted":
            levels, spreads = kept.draw_intensities(random)
        else:
            levels, spreads = (random.uniform(*of, kept.levels.shape[1]) for of in (s.level_range, s.spread_range))
        texture = ndimage.gaussian_filter(random.normal(size=classes.shape), s.texture_voxels, mode="wrap")
        painted = levels[classes] + spreads[classes] * (texture - texture.mean()) / texture.std()
        return ndimage.gaussian_filter(painted, random.uniform(*s.blur_voxels)).astype(np.float32)


def _facts(kept: LabelMaps, origin: Origin) -> dict[str, Any]:
    """Return what ``generator.json`` says beside the settings; the digest is over it."""
    return {"label_maps": len(kept.maps), **asdict(origin)}
