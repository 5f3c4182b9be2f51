"""The segmenter: fitted on real and synthetic pairs, it gives labels in the geometry of the scan it is shown.

Takes cohorts; gives weights and settings in a folder, and from then on labels for a :class:`Case`.

    step          how
    fit           patches or whole grids, augmented; Dice + cross-entropy over K classes (softmax), rare ones first
    stop          mean Dice on validation cases on the networks' grid; the best weights are kept
    predict       sliding windows over the whole scan, blended by a Gaussian; class probabilities, not labels,
                  go back to the scan's grid

Sources: Ikuta et al. 2024, section 3.4 (encoder kept, decoder fresh, all trainable, AdamW 1e-3, patience 10; loss and
activation are not given); Isensee et al. 2021 (nnU-Net) for loss, windows and blending.

Shapes: B batch, K classes, X Y Z volume axes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import safetensors.torch
import torch
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from pydantic import Field, ValidationError
from torch import Tensor, nn

from voxpair.cohorts.augment import SpatialIntensityAugmentation, SpatialIntensitySettings
from voxpair.cohorts.cohort import Cohort
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.geometry import Geometry
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import Progress, RunFolder, derive_seed, make_folder, read_json, write_json
from voxpair.core.settings import Settings
from voxpair.core.tensors import sha256
from voxpair.networks.backbones import BackboneSettings, Patch, build, check_patch, load_encoder, read_encoder
from voxpair.segmentation.mixing import MixedBatches, MixSettings
from voxpair.segmentation.pairs import Pairs, check_patients, hold_out_a_tenth
from voxpair.training.loop import FitResult, LoopSettings, Task, fit
from voxpair.training.precision import autocast
from voxpair.training.state import load_weights, save_weights


class SegmenterSettings(Settings):
    """How a segmenter is made.

    Attributes:
        backbone: the network.
        preprocess: grid and intensities.
        patch: voxels of a training patch and of a sliding window along X, Y, Z; None takes the whole grid.
        mix: ratio and order of real and synthetic pairs.
        augmentation: of training pairs; None for none.
        rarity: how much more a rare class counts in the loss at first, see :func:`class_weights`; it falls to 0 by the
            last update, so that no border is pushed outwards in the end. 0 counts all voxels alike throughout.
        overlap: share of a sliding window that its neighbour covers too.
        validation: which cases decide when to stop: "real_patients" are those handed to :meth:`Segmenter.fit`;
            "tenth_of_mixed" is a tenth of the training pairs, real and synthetic alike, as the papers have it.
            The latter lets copies of training patients judge, so its scores are too good; for reproduction only.
        loop: ``validate_every`` and ``patience`` turn early stopping on.
    """

    backbone: BackboneSettings = BackboneSettings()
    preprocess: PreprocessSettings = PreprocessSettings()
    patch: Patch | None = None
    mix: MixSettings = MixSettings()
    augmentation: SpatialIntensitySettings | None = SpatialIntensitySettings()
    rarity: float = Field(0.5, ge=0, le=1)
    overlap: float = Field(0.5, ge=0, lt=1)
    validation: Literal["real_patients", "tenth_of_mixed"] = "real_patients"
    loop: LoopSettings = LoopSettings(
        updates=2000, learning_rate=1e-3, decay="cosine", warmup=20, validate_every=100, patience=10
    )

    @property
    def window(self) -> Patch:
        """Voxels that the network sees at once."""
        return self.patch or self.preprocess.grid


class Segmenter:
    """One network that labels scans.

    Args:
        label_table, modality: of all cohorts that it is fitted on.

    Raises:
        InputError: the network or the grid cannot hold the patch.

    Example::

        segmenter = Segmenter(SegmenterSettings(), cohort.label_table, cohort.modality)
        segmenter.fit(cohort.split("train"), RunFolder("run"), validation=cohort.split("val"))
        segmenter.save(Path("run/model"))
        labels = Segmenter.load(Path("run/model"), device="cpu").predict(case).labels
    """

    def __init__(self, settings: SegmenterSettings, label_table: LabelTable, modality: str) -> None:
        check_patch(settings.backbone, settings.window)
        grid = settings.preprocess.grid
        if any(p > g for p, g in zip(settings.window, grid)):
            raise InputError(
                f"patch {settings.patch} is larger than preprocess.grid {grid}; choose a smaller patch or a larger grid"
            )
        self.settings, self.label_table, self.modality = settings, label_table, modality
        self.preprocessor = Preprocessor(settings.preprocess, label_table, modality)
        self.digest = ""
        self._network: nn.Module | None = None

    def fit(
        self,
        real: Cohort,
        run: RunFolder,
        *,
        synthetic: Sequence[Cohort] = (),
        validation: Cohort | None = None,
        encoder: Path | None = None,
        start: Path | None = None,
    ) -> FitResult:
        """Fit on the annotated cases; the same call again resumes.

        Args:
            real: training cases; those without labels are left out, and counted aloud.
            synthetic: synthetic pairs, or scans with predicted labels; they never judge (but see
                ``settings.validation``). Several cohorts are taken as one.
            validation: cases of other patients that decide when to stop; None fits all updates.
            encoder: folder of a finished pre-training; None starts from random weights.
            start: folder of a saved segmenter, all of whose weights are where this fit begins (fine-tuning).

        Raises:
            InputError: nothing annotated; another label table or modality; validation patients that were trained on;
                an encoder or a start of another network; both an encoder and a start.
            RunError: the loss is not finite.
        """
        check_patients(real, synthetic, validation)
        pairs = self._prepare(real, synthetic, validation, run)
        network = self._new_network(run.seed)
        if encoder is not None and start is not None:
            raise InputError(f"a fit begins from an encoder ({encoder}) or from a segmenter ({start}), not from both")
        if encoder is not None:
            _take_encoder(network, self.settings.backbone, encoder, run.progress)
        if start is not None:
            self._take_all(network, start)
        loop = self.settings.loop
        augmentation = self.settings.augmentation
        batches = MixedBatches(
            pairs.real,
            pairs.synthetic,
            self.settings.mix,
            loop.updates,
            loop.batch_size,
            derive_seed("segment", run.seed),
            patch=self.settings.patch,
            augment=SpatialIntensityAugmentation(augmentation) if augmentation else None,
        )
        task = Segmentation(network, self.settings, self.label_table, pairs.held_out, pairs.real.class_counts())
        result = fit(task, batches, loop, run, "segment")
        self._set(task.network)
        return result

    @property
    def network(self) -> nn.Module:
        """The network with its weights, for inference.

        Raises:
            InputError: there are no weights yet.
        """
        if self._network is None:
            raise InputError("this segmenter has no weights yet: fit it, or load one with Segmenter.load")
        return self._network

    def probabilities(self, case: Case) -> tuple[np.ndarray, Geometry]:
        """Return class probabilities (K, X, Y, Z), float32, on the networks' grid, and the way back from there.

        Axes that are cropped in training are kept whole here.
        """
        network = self.network
        prepared = self.preprocessor.forward(replace(case, labels=None), crop=False)
        probabilities = window_probabilities(network, torch.from_numpy(prepared.image), self.settings)
        return probabilities.cpu().numpy(), prepared.geometry

    def predict(self, case: Case) -> Case:
        """Return ``case`` with predicted labels on its own grid: same shape and affine; its labels are not used."""
        return self.labelled(case, *self.probabilities(case))

    def labelled(self, case: Case, probabilities: np.ndarray, geometry: Geometry) -> Case:
        """Return ``case`` with the labels that class probabilities on the networks' grid speak for."""
        return replace(
            case,
            labels=self.preprocessor.inverse_probabilities(probabilities, geometry),
            label_table=self.label_table,
            source="prediction",
            provenance={"segmenter": self.digest},
        )

    def save(self, folder: Path) -> None:
        """Write ``segmenter.safetensors`` and ``segmenter.json``."""
        network = self.network
        make_folder(folder)
        weights_sha256 = save_weights(folder / "segmenter.safetensors", network)
        content = {
            "settings": self.settings.model_dump(mode="json"),
            "label_table": self.label_table.to_json(),
            "modality": self.modality,
            "weights_sha256": weights_sha256,
        }
        write_json(folder / "segmenter.json", content)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the folder holds no segmenter, or a damaged one.
        """
        path, weights = folder / "segmenter.json", folder / "segmenter.safetensors"
        if not path.exists():
            raise InputError(f"{folder} holds no segmenter (segmenter.json); give the folder 'model' of a finished fit")
        content = read_json(path)
        try:
            settings = SegmenterSettings.model_validate(content["settings"])
            segmenter = cls(settings, LabelTable.from_json(content["label_table"]), content["modality"])
            expected = content["weights_sha256"]
        except (KeyError, TypeError, ValidationError) as error:
            raise InputError(f"{path} was written by another version of voxpair, or changed: {error}") from None
        if not weights.exists() or sha256(weights) != expected:
            raise InputError(f"{weights} is missing or is not the file that {path.name} describes; fit again")
        network = segmenter._new_network(seed=0)
        load_weights(weights, network)
        segmenter._set(network.to(device))
        return segmenter

    def _new_network(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("network", seed))
            return build(self.settings.backbone, 1, self.label_table.classes, self.settings.window)

    def _take_all(self, network: nn.Module, folder: Path) -> None:
        """Copy the weights of a saved segmenter into ``network``."""
        other = Segmenter.load(folder)
        mine, its = ((s.settings.backbone, s.label_table.to_mapping(), s.modality) for s in (self, other))
        for what, wanted, found in zip(("backbone", "labels", "modality"), mine, its):
            if wanted != found:
                raise InputError(f"{folder} cannot be the start of this fit: its {what} is {found}, here {wanted}")
        network.load_state_dict(other.network.state_dict())

    def _set(self, network: nn.Module) -> None:
        self._network = network.eval()
        weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        self.digest = hashlib.sha256(safetensors.torch.save(weights)).hexdigest()

    def _prepare(self, real: Cohort, synthetic: Sequence[Cohort], validation: Cohort | None, run: RunFolder) -> Pairs:
        """Prepare what has labels, say what has none, and choose who judges."""

        def prepared(cohort: Cohort, what: str) -> PreparedCohort:
            if cohort.modality != self.modality:
                raise InputError(
                    f"{cohort.folder} ({what}) is {cohort.modality}, but this segmenter is for {self.modality}"
                )
            labelled = cohort.labelled()
            if not len(labelled):
                raise InputError(f"{cohort.folder}: none of its {len(cohort)} {what} cases has labels")
            if len(labelled) < len(cohort):
                run.progress.say(f"  {len(cohort) - len(labelled)} {what} cases have no labels and are left out")
            return PreparedCohort.build(labelled, self.preprocessor, run.cache, run.progress)

        literal = self.settings.validation == "tenth_of_mixed"
        pairs = Pairs(
            prepared(real, "training"),
            PreparedCohort.concat(*(prepared(part, "synthetic") for part in synthetic)) if synthetic else None,
            prepared(validation, "validation") if validation is not None and not literal else None,
        )
        if literal:
            pairs = hold_out_a_tenth(pairs, run.seed)
            run.progress.say(f"  {len(pairs.held_out)} of all training pairs decide when to stop, as in the papers")
        if self.settings.loop.validate_every and pairs.held_out is None:
            run.progress.say("  no validation cases: all updates are done and the last weights are kept")
        if pairs.held_out is not None and not pairs.held_out.class_counts()[1:].any():
            raise InputError(
                f"none of the {len(pairs.held_out)} validation cases holds any structure of {self.label_table.name!r}, "
                "so nothing can be judged by them; choose others"
            )
        return pairs


class Segmentation(Task):
    """The network, its loss, and its mean Dice on the cases that decide when to stop."""

    def __init__(
        self,
        network: nn.Module,
        settings: SegmenterSettings,
        label_table: LabelTable,
        held_out: PreparedCohort | None,
        voxels_per_class: np.ndarray,
    ) -> None:
        super().__init__()
        self.network, self.settings, self.label_table, self.held_out = network, settings, label_table, held_out
        self.voxels_per_class = voxels_per_class

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        rarity = self.settings.rarity * (1 - batch["progress"])
        weights = class_weights(self.voxels_per_class, rarity).to(batch["image"].device)
        criterion = DiceCELoss(to_onehot_y=True, softmax=True, weight=weights)
        return {"loss": criterion(self.network(batch["image"]).float(), batch["labels"])}

    def validate(self) -> dict[str, float]:
        """Return the Dice of each structure that the cases hold, and the mean over structures as the score."""
        if self.held_out is None:
            return {}
        per_case = []
        for case in self.held_out:
            image = torch.from_numpy(np.array(case.image))
            predicted = window_probabilities(self.network, image, self.settings).argmax(dim=0).cpu().numpy()
            per_case.append(dice(predicted, case.labels, self.label_table.classes))
        scored = {
            name: float(np.nanmean(column))
            for name, column in zip(self.label_table.names, np.array(per_case).T)
            if not np.isnan(column).all()
        }
        mean = float(np.mean(list(scored.values())))
        return {f"dice_{name}": value for name, value in scored.items()} | {"score": mean}


def class_weights(voxels_per_class: np.ndarray, rarity: float) -> Tensor:
    """Return the weight of each class in the loss: its share of the training voxels to the power ``-rarity``.

    The weights are scaled so that the mean over voxels is 1. A class that no training case has counts as the commonest.

    Args:
        voxels_per_class: shape (K,), over all real training cases.
        rarity: 0 counts voxels alike, 1 classes alike.

    >>> [round(weight, 2) for weight in class_weights(np.array([81, 16, 1, 0]), 0.5).tolist()]
    [0.78, 1.75, 7.0, 0.78]
    """
    present = voxels_per_class > 0
    shares = voxels_per_class / voxels_per_class.sum()
    weights = np.where(present, shares, shares.max()) ** -rarity
    return torch.from_numpy(weights / (weights * shares).sum()).float()


@torch.inference_mode()
def window_probabilities(network: nn.Module, image: Tensor, settings: SegmenterSettings) -> Tensor:
    """Return class probabilities (K, X, Y, Z), float32, for an image (X, Y, Z) of any size, by sliding windows."""
    device = next(network.parameters()).device

    def probabilities(windows: Tensor) -> Tensor:
        with autocast(settings.loop.precision, device):
            logits = network(windows)
        return logits.float().softmax(dim=1)

    return sliding_window_inference(
        image[None, None].to(device),
        roi_size=settings.window,
        sw_batch_size=1,
        predictor=probabilities,
        overlap=settings.overlap,
        mode="gaussian",
    )[0]


def dice(predicted: np.ndarray, reference: np.ndarray, classes: int) -> list[float]:
    """Return the Dice of classes 1..K-1; NaN where the reference has none of a class.

    >>> dice(np.array([1, 1, 2, 0]), np.array([1, 0, 2, 0]), 4)
    [0.6666666666666666, 1.0, nan]
    """
    pairs = np.bincount(predicted.ravel() * classes + reference.ravel().astype(np.int64), minlength=classes**2)
    table = pairs.reshape(classes, classes)
    sizes = table.sum(axis=1) + table.sum(axis=0)
    return [float(2 * table[k, k] / sizes[k]) if table[:, k].any() else float("nan") for k in range(1, classes)]


def _take_encoder(network: nn.Module, backbone: BackboneSettings, folder: Path, progress: Progress) -> None:
    """Copy a pre-trained encoder into ``network``."""
    found, weights = read_encoder(folder)
    if found != backbone:
        raise InputError(
            f"{folder} holds an encoder of {found.network} with channels {found.channels}, but this segmenter is "
            f"{backbone.network} with channels {backbone.channels}. Pre-train with the same backbone."
        )
    report = load_encoder(network, backbone, weights)
    progress.say(f"  encoder: {len(report.loaded)} weights from {folder}, {len(report.missing)} of the decoder fresh")
