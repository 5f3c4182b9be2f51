"""Fit of the joint autoencoder, and the gate behind it: what the latent has lost, no diffusion model can bring back.

Takes prepared training and validation cases; gives a fitted :class:`JointAutoencoder` and ``reconstruction.json``.

    loss        of             is
    image       image          mean absolute error
    label       label head     that of the label code, over cases that have labels
    kl          latent         divergence from the standard normal, mean over latent values
    spectral    image          mean absolute difference of local Fourier amplitudes
    coarse      both heads     image + label, of latents averaged over 2^3 and 4^3 voxels, decoded small (optional)
    critic      image          least squares against a patch critic (optional second player)

The image term alone makes a decoder give the mean of all textures that fit, which has none: soft tissue comes out
smooth, as the papers report. The spectral term compares amplitudes without phases, so texture of the right strength
is right wherever its grains lie. It is computed in float32: bfloat16 has no Fourier transform worth the name.

The coarse term makes the coarse part of a latent speak for the coarse part of the volume. Without it, a decoder reads
anatomy off the finest ripples of a latent as well, and these are what a denoiser learns last.

Sources: LSGAN, Mao et al. 2017, with the patch critic and weights of MAISI (Guo et al. 2024); the spectral term goes
back to Dhariwal et al. 2020 (Jukebox) and is used for CT angiography by MedLoRD (Seyfarth et al. 2025); the coarse term
is the scale equivariance of Skorokhodov et al. 2025 (Improving the Diffusability of Autoencoders).

Shapes: B batch, C channels, K classes, X Y Z volume axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import PatchAdversarialLoss
from monai.metrics import compute_dice
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from voxpair.cohorts.augment import Augmentation, GeometricJitter, PaperAugmentation
from voxpair.cohorts.datasets import CaseBatches, PreparedCase, PreparedCohort, draw, stack
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, derive_seed, write_json
from voxpair.generators.joint_ldm.autoencoder import AugmentationName, AutoencoderSettings, JointAutoencoder
from voxpair.generators.joint_ldm.label_codes import inverse_root_weights, make_label_code
from voxpair.training.loop import Task, fit

COARSER = (2, 4)  # times, where they divide the sides of the latent
SPECTRAL_WINDOW = 16  # voxels: wide enough for the grains of noise, small enough to keep them where they belong

AUGMENTATIONS: dict[AugmentationName, Augmentation | None] = {
    "none": None,
    "paper": PaperAugmentation(),
    "jitter": GeometricJitter(),
}


class AutoencoderTask(Task):
    """The autoencoder with its losses and, if ``adversarial_weight`` is above 0, its critic.

    Args:
        validation: returns scores of the network given; None validates never.
    """

    def __init__(
        self,
        network: JointAutoencoder,
        settings: AutoencoderSettings,
        validation: Callable[[JointAutoencoder], dict[str, float]] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.settings, self.validation = network, settings, validation
        self.critic: nn.Module | None = None
        if settings.adversarial_weight:
            self.critic = PatchDiscriminator(
                spatial_dims=3, channels=16, in_channels=1, num_layers_d=2, norm="INSTANCE"
            )
            self.judge = PatchAdversarialLoss(criterion="least_squares")

    def players(self) -> dict[str, list[nn.Parameter]]:
        players = {"model": list(self.network.parameters())}
        return players if self.critic is None else players | {"critic": list(self.critic.parameters())}

    def forward(self, batch: Mapping[str, Any], player: str) -> dict[str, Tensor]:
        image = batch["image"]
        if player == "critic":
            with torch.no_grad():
                fake, _, _, _, _ = self._pass(batch)
            return {"loss": (self._judged(fake, False, True) + self._judged(image, True, True)) / 2}
        made, output, latent, mean, log_variance = self._pass(batch)
        s = self.settings
        losses = {
            "image": F.l1_loss(made, image),
            "label": self._label_loss(output, batch["labels"][:, 0], batch["has_labels"]),
            "kl": 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
        }
        loss = s.image_weight * losses["image"] + s.label_weight * losses["label"] + s.kl_weight * losses["kl"]
        if s.spectral_weight:
            losses["spectral"] = spectral_loss(made, image)
            loss = loss + s.spectral_weight * losses["spectral"]
        if s.coarse_weight:
            losses["coarse"] = self._coarse_loss(latent, batch)
            loss = loss + s.coarse_weight * losses["coarse"]
        if self.critic is not None:
            losses["adversarial"] = self._judged(made, True, False)
            loss = loss + s.adversarial_weight * losses["adversarial"]
        return {"loss": loss, **losses}

    def validate(self) -> dict[str, float]:
        return self.validation(self.network) if self.validation else {}

    def _pass(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return image and label channels of a drawn latent, the latent, and the posterior it is drawn from."""
        shown = batch["has_labels"] & (
            torch.rand(len(batch["image"]), device=batch["image"].device) >= self.settings.label_drop
        )
        mean, log_variance = self.network.encode(batch["image"], batch["labels"][:, 0], shown)
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return *self.network.decode(latent), latent, mean, log_variance

    def _label_loss(self, output: Tensor, classes: Tensor, labelled: Tensor) -> Tensor:
        if not labelled.any():
            return 0 * output.sum()  # keeps the graph: with several processes every parameter must have a gradient
        return self.network.code.loss(output[labelled], classes[labelled])

    def _coarse_loss(self, latent: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the losses of image and labels for coarser latents; what they should become is averaged likewise."""
        code, s, total = self.network.code, self.settings, latent.new_zeros(())
        for factor in COARSER:
            if any(side % factor for side in latent.shape[2:]):
                continue
            made, output = self.network.decode(F.avg_pool3d(latent, factor))
            classes = code.decode(F.avg_pool3d(code.encode(batch["labels"][:, 0]), factor))
            total = total + s.image_weight * F.l1_loss(made, F.avg_pool3d(batch["image"], factor))
            total = total + s.label_weight * self._label_loss(output, classes, batch["has_labels"])
        return total

    def _judged(self, image: Tensor, real: bool, for_critic: bool) -> Tensor:
        return self.judge(self.critic(2 * image - 1)[-1].float(), target_is_real=real, for_discriminator=for_critic)


def spectral_loss(made: Tensor, image: Tensor, window: int = SPECTRAL_WINDOW) -> Tensor:
    """Return the mean absolute difference of Fourier amplitudes in windows of ``window``^3 voxels.

    The volumes are rolled by the same random number of voxels first, so that windows begin anywhere.

    Args:
        made, image: (B, 1, X, Y, Z); axes shorter than the window are taken whole.
    """
    sizes = [min(window, n) for n in image.shape[2:]]
    shifts = [int(torch.randint(n, ())) for n in image.shape[2:]]

    def amplitudes(volume: Tensor) -> Tensor:
        rolled = volume.float().roll(shifts, (2, 3, 4))
        for axis, size in zip((2, 3, 4), sizes):
            rolled = rolled.unfold(axis, size, size)
        return torch.fft.rfftn(rolled, dim=(-3, -2, -1), norm="ortho").abs()

    with torch.autocast(made.device.type, enabled=False):
        return F.l1_loss(amplitudes(made), amplitudes(image))


@torch.inference_mode()
def measure(network: JointAutoencoder, cases: Iterable[PreparedCase], label_table: LabelTable) -> dict[str, Any]:
    """Encode and decode cases and say what came back.

    Returns:
        ``dice``: per structure, mean over annotated cases that have it (None if none has);
        ``image_error``: mean absolute error in units of the window; ``texture_ratio``: standard deviation of what
        is finer than 3 voxels, reconstruction over original, 1 if no texture is lost.
    """
    network.eval()
    device = next(network.parameters()).device
    dice, errors, ratios = [], [], []
    for case in cases:
        batch = stack([draw(case, 0)])
        image, classes = batch["image"].to(device), batch["labels"][:, 0].to(device)
        mean, _ = network.encode(image, classes, batch["has_labels"].to(device))
        made, output = network.decode(mean)
        errors.append(float((made - image).abs().mean()))
        ratios.append(float(_fine(made).std() / _fine(image).std().clamp(min=1e-6)))
        if case.labels is not None:
            decoded, reference = (
                F.one_hot(c, label_table.classes).movedim(-1, 1) for c in (network.code.decode(output), classes)
            )
            dice.append(compute_dice(decoded, reference, include_background=False, ignore_empty=True)[0])
    means = torch.stack(dice).nanmean(0).tolist() if dice else [float("nan")] * len(label_table.names)
    return {
        "dice": {name: None if value != value else value for name, value in zip(label_table.names, means)},
        "image_error": sum(errors) / len(errors),
        "texture_ratio": sum(ratios) / len(ratios),
        "cases": len(errors),
    }


def fit_autoencoder(
    training: PreparedCohort, validation: PreparedCohort, settings: AutoencoderSettings, run: RunFolder
) -> JointAutoencoder:
    """Fit, measure, and refuse an autoencoder that loses a structure.

    Args:
        validation: cases that ``reconstruction.json`` and the gate are measured on.

    Raises:
        InputError: no training case has labels.
        RunError: the reconstruction of a structure has a smaller Dice than ``settings.gate``.
    """
    counts = training.class_counts()
    if not counts.any():
        raise InputError(
            "no training case has labels, so there are no pairs to learn: annotate some, or check the split"
        )
    torch.manual_seed(derive_seed("autoencoder", run.seed))
    network = make_autoencoder(settings, training.label_table, counts)
    augment = AUGMENTATIONS[settings.augmentation]
    batches = CaseBatches(
        training,
        settings.loop.batch_size,
        derive_seed("pairs", run.seed),
        augment,
        settings.patch,
        whole_from=round(settings.loop.updates * (1 - settings.whole_last)),
    )

    def score(candidate: JointAutoencoder) -> dict[str, float]:
        found = measure(candidate, validation, training.label_table)
        dice = [value for value in found["dice"].values() if value is not None]
        mean_dice = sum(dice) / max(1, len(dice))
        return {"dice": mean_dice, "image_error": found["image_error"], "score": mean_dice - found["image_error"]}

    fit(AutoencoderTask(network, settings, score), batches, settings.loop, run, "autoencoder")
    quality = measure(network, validation, training.label_table)
    write_json(run.file("reconstruction.json"), quality)
    check_gate(quality["dice"], settings)
    return network


def make_autoencoder(settings: AutoencoderSettings, label_table: LabelTable, counts: Any = None) -> JointAutoencoder:
    """Return a fresh autoencoder; ``counts`` (K,) are voxels per class, for the weights of the label loss."""
    weights = None if counts is None else inverse_root_weights(torch.as_tensor(counts))
    return JointAutoencoder(settings, make_label_code(settings.label_code, label_table.classes, weights))


def check_gate(dice: Mapping[str, float | None], settings: AutoencoderSettings) -> None:
    """Raise RunError if the reconstruction of any structure is worse than ``settings.gate``."""
    lost = {name: value for name, value in dice.items() if value is not None and value < settings.gate}
    if lost:
        worst = min(lost, key=lost.__getitem__)
        others = ", ".join(f"{name} {value:.3f}" for name, value in lost.items() if name != worst)
        raise RunError(
            f"the autoencoder does not keep {worst}: its reconstruction has Dice {lost[worst]:.3f}, the gate is "
            f"{settings.gate:g}{f' (also {others})' if others else ''}. No diffusion model was fitted on it. Fit "
            f"again, with --overwrite and more updates (autoencoder.loop.updates, now {settings.loop.updates}), more "
            f"latent channels (autoencoder.latent_channels, now {settings.latent_channels}), or fewer levels "
            f"(autoencoder.channels: the latent is {settings.downsampling}x smaller per axis now); 'run' and 'demo' "
            "want 'generator.' before these names."
        )


def _fine(image: Tensor) -> Tensor:
    return image - F.avg_pool3d(image, 3, 1, 1, count_include_pad=False)
