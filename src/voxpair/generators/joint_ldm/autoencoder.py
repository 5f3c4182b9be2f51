"""The joint autoencoder: an image and its labels as one latent, and back.

    image (B, 1, X, Y, Z) in [0, 1]   -> one-layer stem ┐
                                                        ├ add or concatenate -> KL autoencoder's encoder -> latent
    labels (B, X, Y, Z) class indices -> one-layer stem ┘

    latent (B, L, X/f, Y/f, Z/f) -> decoder -> last layer with two heads: image (1 channel), labels (code channels)

Source: Ikuta et al. 2024 and Hu et al. 2024, section 3.2: two one-layer encoders of equal output shape, fused by
addition. Their stems have 3 channels (``stem_channels=3``). The body is MONAI's AutoencoderKL without attention,
with the widths of MAISI (Guo et al. 2024). Ours: a learnt "no labels" in place of the label stem's output, so that
scans that nobody annotated are learnt from as well; the decoder then says what their labels are.

Shapes: B batch, L latent channels, X Y Z volume axes, f = 2^(levels - 1).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from monai.networks.nets import AutoencoderKL
from pydantic import Field, model_validator
from torch import Tensor, nn

from voxpair.core.settings import Settings
from voxpair.generators.joint_ldm.label_codes import LabelCode, LabelCodeName
from voxpair.training.loop import LoopSettings

AugmentationName = Literal["none", "paper", "jitter"]


class AutoencoderSettings(Settings):
    """Shape, losses and fit of the joint autoencoder.

    Attributes:
        label_code: "one_hot", or the papers' "rgb".
        stem_channels: output channels of each one-layer stem; the papers' value is 3.
        fusion: how the stems' outputs are joined; the papers add.
        channels: width per level; each level after the first halves the volume.
        res_blocks: residual blocks per level.
        latent_channels: L.
        image_weight, label_weight, kl_weight, spectral_weight: of the losses; see ``reconstruction``.
        coarse_weight: of the image and label losses of coarser latents; see ``reconstruction``.
        adversarial_weight: of the least-squares GAN loss with a patch critic; 0 has no critic.
        label_drop: probability of hiding a case's labels from the encoder, which then has to read them off the image.
        augmentation: of the pairs, before encoding.
        patch: voxels along X, Y, Z of the random parts it is fitted on; None takes whole volumes.
        whole_last: with patches, share of the updates that take whole volumes in the end: what normalises a patch does
            not suit a volume, which would come out darker (Touvron et al. 2019, on sizes of pictures).
        gate: smallest acceptable Dice of each structure's reconstruction; below it no diffusion model is fitted.
        loop: length and rates of the fit.
    """

    label_code: LabelCodeName = "one_hot"
    stem_channels: int = Field(16, ge=1)
    fusion: Literal["add", "concat"] = "add"
    channels: tuple[int, ...] = (32, 64)
    res_blocks: int = Field(1, ge=1)
    latent_channels: int = Field(4, ge=1)
    image_weight: float = Field(1.0, gt=0)
    label_weight: float = Field(0.1, gt=0)
    kl_weight: float = Field(1e-4, ge=0)
    spectral_weight: float = Field(0.5, ge=0)
    coarse_weight: float = Field(0.0, ge=0)
    adversarial_weight: float = Field(0.0, ge=0)
    label_drop: float = Field(0.1, ge=0, lt=1)
    augmentation: AugmentationName = "jitter"
    patch: tuple[int, int, int] | None = None
    whole_last: float = Field(0.1, ge=0, le=1)
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
        self.fusion, self.precision = settings.fusion, settings.loop.precision
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
        return mean.float(), 2 * sigma.float().clamp(min=1e-12).log()

    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image (B, 1, X, Y, Z), about [0, 1], and the label code's channels; both float32."""
        output = self.body.decode(latent).float()
        return (output[:, :1] + 1) / 2, output[:, 1:]


def norm_groups(channels: tuple[int, ...]) -> int:
    """Return a number of normalisation groups that divides every width: at most 32, each of 2 channels or more.

    >>> norm_groups((64, 128, 256)), norm_groups((16, 32)), norm_groups((32, 64, 96)), norm_groups((7,))
    (32, 8, 16, 1)
    """
    common = math.gcd(*channels)
    return max(n for n in range(1, 33) if common % n == 0 and (n == 1 or 2 * n <= common))
