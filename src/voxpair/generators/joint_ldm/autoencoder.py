"""The joint autoencoder: an image and its labels as one latent, and back.

    image (B, 1, X, Y, Z) in [0, 1]   -> one-layer stem ┐
                                                        ├ add or concatenate -> KL autoencoder's encoder -> latent
    labels (B, X, Y, Z) class indices -> one-layer stem ┘

    latent (B, L, X/f, Y/f, Z/f) -> decoder -> last layer with two heads: image (1 channel), labels (code channels)

Source: Ikuta et al. 2024 and Hu et al. 2024, section 3.2: two one-layer encoders of equal output shape, fused by
addition. Their stems have 3 channels (``stem_channels=3``). The body is MONAI's AutoencoderKL without attention,
with the widths of MAISI (Guo et al. 2024). Ours: a learnt "no labels" in place of the label stem's output, so that
scans that nobody annotated are learnt from as well; the decoder then says what their labels are.

Ours too: a shortcut for the image (``shortcut``). The first latent channel has the mean of each block of f^3 voxels
added to it, the image the interpolation of that channel; the body learns what these leave, in units of about its size.
At first it adds nothing to either, and the posterior is narrow, so that a fit begins with a blurred image instead of
with noise. Shortcuts of this kind: Chen et al. 2024, DC-AE, arXiv 2410.10733.

Shapes: B batch, L latent channels, X Y Z volume axes, f = 2^(levels - 1).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from monai.networks.nets import AutoencoderKL
from pydantic import Field, model_validator
from torch import Tensor, nn

from voxpair.core.settings import Settings
from voxpair.generators.joint_ldm.label_codes import LabelCode, LabelCodeName
from voxpair.training.loop import LoopSettings

FIRST_LOG_VARIANCE = -6.0
DETAIL = 0.1  # of [-1, 1]: what an image has beyond its block means
AugmentationName = Literal["none", "paper", "jitter"]


class AutoencoderSettings(Settings):
    """Shape, losses and fit of the joint autoencoder.

    Attributes:
        label_code: "one_hot", or the papers' "rgb".
        stem_channels: output channels of each one-layer stem; the papers' value is 3.
        fusion: how the stems' outputs are joined; the papers add.
        channels: width per level; each level after the first halves the volume.
        res_blocks: residual blocks per level.
        shortcut: whether the image's block means pass the body by.
        latent_channels: L.
        image_weight, label_weight, kl_weight, spectral_weight: of the losses; see ``reconstruction``.
        adversarial_weight: of the least-squares GAN loss with a patch critic; 0 has no critic.
        label_drop: probability of hiding a case's labels from the encoder, which then has to read them off the image.
        augmentation: of the pairs, before encoding.
        patch: voxels along X, Y, Z of the random parts it is fitted on; None takes whole volumes.
        gate: smallest acceptable Dice of each structure's reconstruction; below it no diffusion model is fitted.
        loop: length and rates of the fit.
    """

    label_code: LabelCodeName = "one_hot"
    stem_channels: int = Field(16, ge=1)
    fusion: Literal["add", "concat"] = "add"
    channels: tuple[int, ...] = (32, 64)
    res_blocks: int = Field(1, ge=1)
    shortcut: bool = True
    latent_channels: int = Field(4, ge=1)
    image_weight: float = Field(1.0, gt=0)
    label_weight: float = Field(0.1, gt=0)
    kl_weight: float = Field(1e-4, ge=0)
    spectral_weight: float = Field(0.5, ge=0)
    adversarial_weight: float = Field(0.0, ge=0)
    label_drop: float = Field(0.1, ge=0, lt=1)
    augmentation: AugmentationName = "jitter"
    patch: tuple[int, int, int] | None = None
    gate: float = Field(0.7, ge=0, le=1)
    loop: LoopSettings = LoopSettings(
        updates=1500, batch_size=2, learning_rate=1e-3, weight_decay=1e-4, decay="cosine", warmup=50, ema=0.99
    )

    @model_validator(mode="after")
    def _check(self) -> AutoencoderSettings:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must name the width of each level, got {self.channels}")
        if self.patch is not None and any(n < 1 or n % self.downsampling for n in self.patch):
            raise ValueError(f"patch {self.patch} must be divisible by the down-sampling {self.downsampling}")
        return self

    @property
    def downsampling(self) -> int:
        """f, the factor between volume and latent along each axis.

        >>> AutoencoderSettings(channels=(64, 128, 256)).downsampling
        4
        """
        return 2 ** (len(self.channels) - 1)


class JointAutoencoder(nn.Module):
    """Image and labels to a latent distribution, a latent to image and label channels.

    >>> from voxpair.generators.joint_ldm.label_codes import make_label_code
    >>> network = JointAutoencoder(AutoencoderSettings(channels=(8, 8)), make_label_code("one_hot", 3))
    >>> labelled = torch.tensor([True, False])
    >>> mean, _ = network.encode(torch.rand(2, 1, 8, 8, 8), torch.zeros(2, 8, 8, 8, dtype=torch.long), labelled)
    >>> image, output = network.decode(mean)
    >>> mean.shape[1:], image.shape[1:], output.shape[1:]
    (torch.Size([4, 4, 4, 4]), torch.Size([1, 8, 8, 8]), torch.Size([3, 8, 8, 8]))
    """

    def __init__(self, settings: AutoencoderSettings, code: LabelCode) -> None:
        super().__init__()
        width = settings.stem_channels
        self.fusion, self.shortcut, self.factor = settings.fusion, settings.shortcut, settings.downsampling
        self.code = code
        self.image_stem = nn.Conv3d(1, width, 3, padding=1)
        self.label_stem = nn.Conv3d(code.channels, width, 3, padding=1)
        self.no_labels = nn.Parameter(torch.zeros(1, width, 1, 1, 1))
        self.body = AutoencoderKL(
            spatial_dims=3,
            in_channels=width if settings.fusion == "add" else 2 * width,
            out_channels=1
            + code.channels,  # both heads: two convolutions of the same features are one with more outputs
            channels=settings.channels,
            num_res_blocks=settings.res_blocks,
            attention_levels=[False] * len(settings.channels),
            latent_channels=settings.latent_channels,
            norm_num_groups=norm_groups(settings.channels),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        if self.shortcut:
            self._begin_with_the_shortcut()

    def encode(self, image: Tensor, classes: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the posterior, each (B, L, X/f, Y/f, Z/f), float32.

        Args:
            image: (B, 1, X, Y, Z) in [0, 1].
            classes: (B, X, Y, Z) int64; what stands in unlabelled rows does not matter.
            labelled: (B,) bool, whose labels may be read.
        """
        picture = self.image_stem(2 * image - 1)
        labels = torch.where(
            labelled.reshape(-1, 1, 1, 1, 1), self.label_stem(self.code.encode(classes)), self.no_labels
        )
        fused = picture + labels if self.fusion == "add" else torch.cat([picture, labels], 1)
        mean, sigma = self.body.encode(fused)
        mean = mean.float()
        if self.shortcut:
            blocks = F.avg_pool3d(2 * image.float() - 1, self.factor)
            mean = torch.cat([mean[:, :1] + blocks, mean[:, 1:]], 1)
        return mean, 2 * sigma.float().clamp(min=1e-12).log()

    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image (B, 1, X, Y, Z), about [0, 1], and the label code's channels; both float32."""
        output = self.body.decode(latent).float()
        image = output[:, :1]
        if self.shortcut:
            blurred = F.interpolate(latent[:, :1].float(), scale_factor=self.factor, mode="trilinear")
            image = blurred + DETAIL * image
        return (image + 1) / 2, output[:, 1:]

    @torch.no_grad()
    def _begin_with_the_shortcut(self) -> None:
        """Let the body add nothing to the first latent channel and the image yet, and draw latents near their mean."""
        mean, log_variance = self.body.quant_conv_mu.conv, self.body.quant_conv_log_sigma.conv
        heads = self.body.decoder.blocks[-1].conv
        for weights in (mean.weight[0], mean.bias[0], heads.weight[0], heads.bias[0], log_variance.weight):
            weights.zero_()
        log_variance.bias.fill_(FIRST_LOG_VARIANCE)


def norm_groups(channels: tuple[int, ...]) -> int:
    """Return a number of normalisation groups that divides every width: at most 32, each of 2 channels or more.

    >>> norm_groups((64, 128, 256)), norm_groups((16, 32)), norm_groups((32, 64, 96)), norm_groups((7,))
    (32, 8, 16, 1)
    """
    common = math.gcd(*channels)
    return max(n for n in range(1, 33) if common % n == 0 and (n == 1 or 2 * n <= common))
