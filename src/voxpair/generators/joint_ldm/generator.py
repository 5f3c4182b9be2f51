"""JointLDM: the latent diffusion model of pairs as one generator; it fits, samples, saves and loads.

Takes a split cohort; gives a stream of synthetic cases. Settings, label table, normalisation and vocabulary travel
with the weights: whoever loads a generator needs nothing else.

    RUN/prepared/                        training and validation cases on the grid
    RUN/autoencoder/                     step 1: log, checkpoint, weights, reconstruction.json
    RUN/latents/, RUN/latents-val/       what step 2 is fitted on
    RUN/diffusion/                       step 2: log, checkpoint, weights

    MODEL/generator.json                 settings and facts
    MODEL/autoencoder.safetensors, MODEL/denoiser.safetensors

Source: Ikuta et al. 2024 and Hu et al. 2024, section 3.2 (see the modules for what is theirs and what is ours).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.geometry import Geometry
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, derive_seed, make_folder, read_json, write_json
from voxpair.core.settings import Settings, digest
from voxpair.diffusion.sampler import check_sampler, guide, sample
from voxpair.generators.description import Description
from voxpair.generators.fitting import claim_step, name_weights
from voxpair.generators.joint_ldm.autoencoder import AutoencoderSettings, JointAutoencoder
from voxpair.generators.joint_ldm.cleanup import remove_specks
from voxpair.generators.joint_ldm.conditions import VOLUME, Conditions, ConditionSettings
from voxpair.generators.joint_ldm.denoiser import Denoiser, DiffusionSettings, fit_denoiser
from voxpair.generators.joint_ldm.facts import Facts, describe
from voxpair.generators.joint_ldm.latents import LatentBatches, Latents, LatentSettings
from voxpair.generators.joint_ldm.reconstruction import fit_autoencoder, make_autoencoder
from voxpair.training.precision import autocast
from voxpair.training.state import load_weights, save_weights

if TYPE_CHECKING:
    from voxpair.cohorts.cohort import Cohort

NAME = "joint_ldm"


class SamplingSettings(Settings):
    """How a pair is drawn.

    Attributes:
        sampler: "auto" takes "wiener" where the denoiser has a linear part (``diffusion.trust``), else "euler" for
            rectified flow and "dpm_solver" for discrete diffusion.
        steps: evaluations of the denoiser ("heun": almost twice as many).
        guidance: 1 follows a condition as learnt, more exaggerates it; costs a second evaluation per step.
        draw_conditions: whether a category that is not asked for is drawn, each value as often as the training set has
            it; else it stays open. A denoiser learns open conditions from the few batches that hide them.
        smallest_part_mm3: detached parts of a structure below this volume are removed; 0 changes nothing.
    """

    sampler: Literal["auto", "wiener", "euler", "heun", "ddpm", "ddim", "dpm_solver"] = "auto"
    steps: int = Field(30, ge=1)
    guidance: float = Field(1.0, ge=1)
    draw_conditions: bool = True
    smallest_part_mm3: float = Field(0.0, ge=0)


class JointLDMSettings(Settings):
    """All settings of the generator, by part. Every part's class says what its own mean."""

    preprocess: PreprocessSettings = PreprocessSettings()
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    latents: LatentSettings = LatentSettings()
    conditions: ConditionSettings = ConditionSettings()
    diffusion: DiffusionSettings = DiffusionSettings()
    sampling: SamplingSettings = SamplingSettings()

    @model_validator(mode="after")
    def _check(self) -> JointLDMSettings:
        factor = self.autoencoder.downsampling * self.diffusion.downsampling
        if any(n % factor for n in self.preprocess.grid):
            fitting = tuple(max(factor, round(n / factor) * factor) for n in self.preprocess.grid)
            raise ValueError(
                f"every side of preprocess.grid must be a multiple of {factor} (autoencoder "
                f"{self.autoencoder.downsampling}x, denoiser {self.diffusion.downsampling}x), got "
                f"{self.preprocess.grid}; {fitting} would do"
            )
        if self.preprocess.soft_tissue_hu and "paper" in (self.autoencoder.augmentation, self.latents.augmentation):
            raise ValueError("augmentation paper adds HU on a straight line: set preprocess.soft_tissue_hu to null")
        check_sampler(self.sampler, self.diffusion.formulation == "flow", self.diffusion.trust is not None)
        return self

    @property
    def sampler(self) -> str:
        """The sampler meant by ``sampling.sampler``."""
        if self.sampling.sampler != "auto":
            return self.sampling.sampler
        if self.diffusion.trust is not None:
            return "wiener"
        return "euler" if self.diffusion.formulation == "flow" else "dpm_solver"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels and axes of a latent, (L, x, y, z)."""
        return self.autoencoder.latent_channels, *(n // self.autoencoder.downsampling for n in self.preprocess.grid)


class JointLDM:
    """Learns p(image, labels | condition) and draws from it; keeps ``core.interfaces.PairGenerator``.

    Args:
        modality: "CT" or "MRI", of the cohorts it is fitted on and of its samples.
    """

    steps: ClassVar[tuple[str, ...]] = ("autoencoder", "diffusion")

    def __init__(self, settings: JointLDMSettings, label_table: LabelTable, modality: str) -> None:
        self.settings, self.label_table, self.modality = settings, label_table, modality
        self.preprocessor = Preprocessor(settings.preprocess, label_table, modality)
        self._autoencoder: JointAutoencoder | None = None
        self._denoiser: Denoiser | None = None
        self._facts: Facts | None = None
        self.digest = ""
        """SHA-256 of weights and facts once fitted or loaded."""

    def fit(self, cohort: Cohort, run: RunFolder, *, steps: Sequence[str] | None = None) -> None:
        """Fit on the cases in split "train", annotated or not; "val" measures, "train" where there is none.

        The same call again resumes; finished steps are loaded.

        Args:
            steps: some of ``JointLDM.steps``; "diffusion" needs a finished "autoencoder" in the same run folder.

        Raises:
            InputError: the cohort is not split; another fit lies in ``run``; an unknown step.
            RunError: the autoencoder loses a structure (see ``AutoencoderSettings.gate``).
        """
        steps = self.steps if steps is None else steps
        if unknown := set(steps) - set(self.steps):
            raise InputError(f"no step {sorted(unknown)[0]!r} in fitting {NAME}; it has {', '.join(self.steps)}")
        training = cohort.split("train")
        validation = cohort.split("val") if "val" in cohort.split_counts else training
        prepared, held_out = (
            PreparedCohort.build(part, self.preprocessor, run.cache, run.progress) for part in (training, validation)
        )
        shape = self.settings.autoencoder.model_dump(mode="json")
        data = [training.digest(), validation.digest(), self.preprocessor.digest()]
        autoencoder_inputs = digest([shape, data, run.seed])
        self._fit_autoencoder(prepared, held_out, run.child("autoencoder"), autoencoder_inputs, "autoencoder" in steps)
        if "diffusion" in steps:
            fitted_on = (self.settings.latents, self.settings.conditions, self.settings.diffusion)
            inputs = digest([autoencoder_inputs, *(part.model_dump(mode="json") for part in fitted_on)])
            self._fit_diffusion(prepared, held_out, run, inputs)

    def sample(
        self, count: int, *, seed: int, condition: Mapping[str, Any] | None = None, first: int = 0
    ) -> Iterator[Case]:
        """Stream cases ``first`` to ``count - 1``; case *i* depends on (weights, seed, i, condition) alone.

        Args:
            condition: such as ``{"sex": "F", "volume:LAA": 8.0}`` (mL); what is not mentioned stays open.

        Raises:
            InputError: at once, for a condition that the training set does not know.
        """
        asked = dict(condition or {})
        self._fitted_facts().conditions.encode(asked)
        return (self._draw(i, seed, asked) for i in range(first, count))

    @torch.inference_mode()
    def reconstruct(self, case: Case) -> Case:
        """Encode a case and decode it: what a sample can look like at best, on the case's own grid.

        A case without labels gets those that the autoencoder reads off its image.
        """
        self._fitted_facts()
        prepared = self.preprocessor.forward(case)
        device = next(self._autoencoder.parameters()).device
        has_labels = prepared.labels is not None
        classes = prepared.labels if has_labels else np.zeros(prepared.image.shape, np.uint8)
        mean, _ = self._autoencoder.encode(
            torch.from_numpy(prepared.image)[None, None].to(device),
            torch.from_numpy(classes)[None].long().to(device),
            torch.tensor([has_labels], device=device),
        )
        image, output = self._autoencoder.decode(mean)
        return self.preprocessor.restore(
            image[0, 0].cpu().numpy(),
            self._autoencoder.code.decode(output)[0].cpu().numpy().astype(np.uint8),
            prepared.geometry,
            name=case.name,
            patient=case.patient,
            source="synthetic",
            attributes=case.attributes,
            provenance={"generator": NAME, "weights": self.digest, "reconstruction_of": case.name},
        )

    @property
    def training_patients(self) -> list[str]:
        return list(self._fitted_facts().training_patients)

    def save(self, folder: Path) -> None:
        """Write weights and ``generator.json``, which is written last."""
        facts = self._fitted_facts()
        folder = make_folder(Path(folder))
        save_weights(folder / "autoencoder.safetensors", self._autoencoder)
        save_weights(folder / "denoiser.safetensors", self._denoiser)
        settings = self.settings.model_dump(mode="json")
        Description(NAME, self.digest, self.modality, self.label_table, settings, facts.to_json()).write(folder)

    @classmethod
    def load(cls, folder: Path, *, device: str) -> JointLDM:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no generator of this kind, or its files do not belong together.
        """
        folder = Path(folder)
        saved = Description.read(folder, NAME)
        model = cls(JointLDMSettings.model_validate(saved.settings), saved.label_table, saved.modality)
        facts = Facts.from_json(saved.facts)
        autoencoder = make_autoencoder(model.settings.autoencoder, saved.label_table)
        denoiser = model._make_denoiser(facts.conditions)
        load_weights(folder / "autoencoder.safetensors", autoencoder)
        load_weights(folder / "denoiser.safetensors", denoiser)
        model._finish(autoencoder.to(device), denoiser.to(device), facts)
        model.digest = saved.check((autoencoder, denoiser), folder)
        return model

    def _fit_autoencoder(
        self, training: PreparedCohort, held_out: PreparedCohort, run: RunFolder, inputs: str, allowed: bool
    ) -> None:
        weights = run.file("weights.safetensors")
        if run.is_done(inputs):
            self._autoencoder = make_autoencoder(self.settings.autoencoder, self.label_table)
            load_weights(weights, self._autoencoder)
            self._autoencoder.to(run.device)
            return
        if not allowed:
            raise InputError(f"{run.path} holds no finished autoencoder; fit the step 'autoencoder' first")
        claim_step(run, inputs)
        self._autoencoder = fit_autoencoder(training, held_out, self.settings.autoencoder, run)
        save_weights(weights, self._autoencoder)
        run.mark_done(inputs)

    def _fit_diffusion(self, training: PreparedCohort, held_out: PreparedCohort, run: RunFolder, inputs: str) -> None:
        child = run.child("diffusion")
        if child.is_done(inputs):
            facts = Facts.from_json(read_json(child.file("facts.json")))
            denoiser = self._make_denoiser(facts.conditions)
            load_weights(child.file("weights.safetensors"), denoiser)
            self._finish(self._autoencoder, denoiser.to(run.device), facts)
            return
        claim_step(child, inputs)
        settings = self.settings
        latents = Latents.encode(
            self._autoencoder, training, settings.latents, claim_step(run.child("latents"), inputs)
        )
        described = [describe(case, self.label_table) for case in training]
        conditions = Conditions.fit(settings.conditions.columns, described)
        for column in settings.conditions.columns:
            if column not in conditions.names:
                run.progress.say(f"No training case has {column!r}: the generator is not conditioned on it.")
        facts = Facts.measure(training, latents.normalisation(), conditions)
        batches = LatentBatches(
            latents,
            facts.normalisation,
            torch.stack([conditions.encode_known(case) for case in described]),
            settings.diffusion.loop.batch_size,
            derive_seed("latents", run.seed),
        )
        validation = self._validation_batch(held_out, facts, run, inputs)
        denoiser = fit_denoiser(batches, validation, conditions, settings.conditions.drop, settings.diffusion, child)
        save_weights(child.file("weights.safetensors"), denoiser)
        write_json(child.file("facts.json"), facts.to_json())
        self._finish(self._autoencoder, denoiser, facts)
        child.mark_done(inputs)

    def _validation_batch(
        self, held_out: PreparedCohort, facts: Facts, run: RunFolder, inputs: str
    ) -> dict[str, Any] | None:
        """Encode the held-out cases if the loop will ask for them: all of them, unmoved, as one batch."""
        if self.settings.diffusion.loop.validate_every is None:
            return None
        once = self.settings.latents.model_copy(update={"copies": 1})
        latents = Latents.encode(self._autoencoder, held_out, once, claim_step(run.child("latents-val"), inputs))
        vectors = [facts.conditions.encode({}) for _ in held_out]  # open: held-out values may be new to the vocabulary
        return LatentBatches(latents, facts.normalisation, torch.stack(vectors), len(latents), 0).rows(
            [(i, 0) for i in range(len(latents))]
        )

    def _make_denoiser(self, conditions: Conditions) -> Denoiser:
        length = conditions.length + self.settings.latents.vector_length
        return Denoiser(self.settings.diffusion, self.settings.latent_shape, length)

    def _finish(self, autoencoder: JointAutoencoder, denoiser: Denoiser, facts: Facts) -> None:
        self._autoencoder, self._denoiser, self._facts = autoencoder.eval(), denoiser.eval(), facts
        content = [facts.to_json(), self.settings.model_dump(mode="json")]
        self.digest = name_weights(content, (autoencoder, denoiser))

    def _fitted_facts(self) -> Facts:
        if self._facts is None:
            raise InputError("this generator is not fitted: fit all its steps, or load a fitted one")
        return self._facts

    @torch.inference_mode()
    def _draw(self, index: int, seed: int, condition: dict[str, Any]) -> Case:
        s, facts = self.settings, self._fitted_facts()
        device = next(self._denoiser.parameters()).device
        generator = torch.Generator().manual_seed(derive_seed("sample", seed, index))
        process = self._denoiser.process
        unmoved = torch.zeros(s.latents.vector_length)
        if s.sampling.draw_conditions:
            condition = facts.conditions.draw(condition, derive_seed("condition", seed, index))
        vector = facts.conditions.encode(condition)
        asked, null = (torch.cat([v, unmoved])[None].to(device) for v in (vector, torch.zeros_like(vector)))
        is_asked = torch.cat([facts.conditions.is_asked(vector), unmoved.bool()]).to(device)

        def network(x: Tensor, time: Tensor, what: Tensor) -> Tensor:
            # As in the fit. Besides, torch's float32 convolution of a single small 3D volume is five times slower.
            with autocast(s.diffusion.loop.precision, device):
                return self._denoiser(x, time, what)

        noise = torch.randn(1, *s.latent_shape, generator=generator).to(device)
        begin = self._denoiser.begin(noise, asked[0], is_asked, generator)
        guided = guide(network, asked, null, s.sampling.guidance)
        latent = sample(s.sampler, guided, process, begin, s.sampling.steps, [generator], self._denoiser.prior)
        image, output = self._autoencoder.decode(facts.normalisation.inverse(latent))
        if not (torch.isfinite(image).all() and torch.isfinite(output).all()):
            raise RunError(f"synthetic case {index} of seed {seed} holds NaN or infinite values: the fit has diverged")
        return self._restored(image[0, 0], self._autoencoder.code.decode(output)[0], index, seed, condition)

    def _restored(self, image: Tensor, classes: Tensor, index: int, seed: int, condition: dict[str, Any]) -> Case:
        facts = self._fitted_facts()
        labels = classes.cpu().numpy().astype(np.uint8)
        if self.settings.sampling.smallest_part_mm3:
            voxels = self.settings.sampling.smallest_part_mm3 / float(np.prod(facts.spacing_mm))
            labels = remove_specks(labels, int(np.ceil(voxels)))
        name = f"synthetic_{index:05d}"
        return self.preprocessor.restore(
            image.cpu().numpy(),
            labels,
            Geometry.synthetic(
                self.settings.preprocess.grid, facts.spacing_mm, facts.intensity_low, facts.intensity_high
            ),
            name=name,
            patient=name,
            source="synthetic",
            attributes={key: value for key, value in condition.items() if not key.startswith(VOLUME)},
            provenance={
                "generator": NAME,
                "weights": self.digest,
                "seed": seed,
                "index": index,
                "condition": condition,
            },
        )
