"""Four segmentation networks behind one set of settings, and the transfer of their encoders.

Takes settings, gives a module that maps (B, in_channels, X, Y, Z) to (B, out_channels, X, Y, Z); a 2D network
does so too, slice by slice along Z. Pre-training and segmentation build the same network with other heads, so
that an encoder moves from one to the other by name.

    network      MONAI class   ``channels``                                  a patch axis is     encoder
    unet3d       DynUNet       per level, finest first, at least three       k * 2^(levels - 1)  all on the way down
    unet2d       DynUNet (2D)  the same                                      X and Y the same    all on the way down
    unetr        UNETR         (decoder's first level, transformer tokens)   k * 16              the transformer
    swin_unetr   SwinUNETR     (first stage,), a multiple of 12; doubles     k * 32              the transformer

Sources: Isensee et al. 2021 (nnU-Net's U-Net); Hatamizadeh et al. 2021 (UNETR), 2022 (Swin UNETR). What counts as a
transformer's encoder is what MONAI's own pre-training tutorials transfer: the convolutions beside it are decoder.

An encoder on disk is two files, ``encoder.safetensors`` (all weights but the head) and ``encoder.json``.

Shapes: B batch, C channels, X Y Z volume axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from monai.networks.nets import UNETR, DynUNet, SwinUNETR
from pydantic import ValidationError, model_validator
from torch import Tensor, nn

from voxpair.core.errors import InputError
from voxpair.core.run import read_json, write_json
from voxpair.core.settings import Settings
from voxpair.core.tensors import read_tensors, sha256, write_tensors

Patch = tuple[int, int, int]

_DOWN = ("input_block.", "downsamples.", "bottleneck.")
_ENCODER = {
    "unet3d": _DOWN,
    "unet2d": tuple(f"network.{name}" for name in _DOWN),
    "unetr": ("vit.",),
    "swin_unetr": ("swinViT.",),
}
_HEAD = {"unet3d": "output_block.", "unet2d": "network.output_block.", "unetr": "out.", "swin_unetr": "out."}
_UNETR_TOKEN = 16  # voxels per side of a token, fixed in UNETR
_SWIN_STEP = 32  # tokens of 2 voxels, halved four times


class BackboneSettings(Settings):
    """Which network, and how wide.

    Attributes:
        network: see the table above.
        channels: features per level; its length and meaning follow ``network`` (table above).

    >>> BackboneSettings(network="unetr", channels=(16, 768)).network
    'unetr'
    """

    network: Literal["unet3d", "unet2d", "unetr", "swin_unetr"] = "unet3d"
    channels: tuple[int, ...] = (16, 32, 64, 128)

    @model_validator(mode="after")
    def _channels_suit_the_network(self) -> Self:
        channels = self.channels
        if not channels or min(channels) < 1:
            raise ValueError(f"channels must be positive, got {channels}")
        if self.network in ("unet3d", "unet2d") and len(channels) < 3:
            raise ValueError(f"{self.network} needs channels for at least three levels, got {channels}")
        if self.network == "unetr" and (len(channels) != 2 or (channels[1] > 64 and channels[1] % 64)):
            raise ValueError(
                "unetr needs channels (decoder's first level, transformer tokens), the latter below 64 "
                f"or a multiple of 64, such as (16, 768), got {channels}"
            )
        if self.network == "swin_unetr" and (len(channels) != 1 or channels[0] % 12):
            raise ValueError(
                f"swin_unetr needs one channel number, a multiple of 12 such as (24,), and doubles it, got {channels}"
            )
        return self


def of_similar_width(settings: BackboneSettings, network: str) -> BackboneSettings:
    """Return settings of another network about as wide as ``settings``, which are those of a U-Net.

    >>> of_similar_width(BackboneSettings(channels=(16, 32, 64, 128)), "unetr").channels
    (16, 512)
    >>> of_similar_width(BackboneSettings(channels=(16, 32, 64, 128)), "swin_unetr").channels
    (24,)
    """
    if network == settings.network:
        return settings
    first, last = settings.channels[0], settings.channels[-1]
    channels = {"unetr": (first, 64 * max(1, min(12, last // 16))), "swin_unetr": (12 * max(1, round(first / 8)),)}
    return BackboneSettings(network=network, channels=channels.get(network, settings.channels))


@dataclass(frozen=True)
class LoadReport:
    """What a transfer did, as sorted state-dict names.

    ``loaded`` came from the file, ``missing`` keep their fresh values (the decoder and the head),
    ``unexpected`` were in the file and are of no use here (the pre-training decoder).
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


def build(settings: BackboneSettings, in_channels: int, out_channels: int, patch: Patch) -> nn.Module:
    """Build the network for training patches of shape ``patch`` (X, Y, Z voxels).

    Weights are drawn from torch's global generator, so seed it first.

    Raises:
        InputError: the network cannot take this patch; the message names one that it can take.

    >>> network = build(BackboneSettings(channels=(4, 8, 8)), 1, 3, (16, 16, 8))
    >>> network(torch.zeros(2, 1, 16, 16, 8)).shape
    torch.Size([2, 3, 16, 16, 8])
    """
    check_patch(settings, patch)
    if settings.network == "unetr":
        decoder_width, token_width = settings.channels
        return UNETR(
            in_channels,
            out_channels,
            img_size=patch,
            feature_size=decoder_width,
            hidden_size=token_width,
            mlp_dim=4 * token_width,
            num_heads=_heads(token_width),
        )
    if settings.network == "swin_unetr":
        return SwinUNETR(in_channels, out_channels, feature_size=settings.channels[0])
    if settings.network == "unet2d":
        return _SliceBySlice(_UNet(2, in_channels, out_channels, settings.channels))
    return _UNet(3, in_channels, out_channels, settings.channels)


def legal_patch(settings: BackboneSettings, patch: Sequence[int]) -> Patch:
    """Return ``patch`` (X, Y, Z voxels) grown to what the network can take; a legal patch comes back as it is.

    >>> legal_patch(BackboneSettings(channels=(16, 32, 64, 128)), (40, 51, 35))
    (40, 56, 40)
    """
    step = _step(settings)
    x, y, z = (math.ceil(side / step) * step for side in patch)
    if settings.network == "unet2d":
        z = patch[2]
        if x == y == step:
            x = y = 2 * step
    elif settings.network != "unetr" and x == y == z == step:
        x = y = z = 2 * step  # instance norm needs more than one voxel on the coarsest level
    return x, y, z


def check_patch(settings: BackboneSettings, patch: Patch) -> None:
    """Raise InputError with a patch that would do if the network cannot take ``patch``."""
    if len(patch) != 3 or min(patch) < 1:
        raise InputError(f"a patch has three sides of at least one voxel (X, Y, Z), got {tuple(patch)}")
    good = legal_patch(settings, patch)
    if good != tuple(patch):
        axes = "X and Y" if settings.network == "unet2d" else "every side"
        raise InputError(
            f"{settings.network} with channels {settings.channels} cannot take patches of {tuple(patch)} voxels: "
            f"it needs {axes} to be multiples of {_step(settings)} and more than one voxel on its coarsest level. "
            f"Set the patch to {good}, or choose fewer levels."
        )


def encoder_keys(settings: BackboneSettings, module: nn.Module) -> tuple[str, ...]:
    """Names of the state-dict entries that make up the encoder."""
    return tuple(key for key in module.state_dict() if key.startswith(_ENCODER[settings.network]))


def head_keys(settings: BackboneSettings, module: nn.Module) -> tuple[str, ...]:
    """Names of the state-dict entries of the last layer, whose width is the number of output channels."""
    return tuple(key for key in module.state_dict() if key.startswith(_HEAD[settings.network]))


def encoder_features(module: nn.Module, settings: BackboneSettings, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the encoder's two deepest feature maps, the finer first, each (B, channels, X', Y', Z').

    On the way down these are the last two levels (unet2d: of each slice, put side by side along Z); in unetr, whose
    tokens keep one size, the tokens after ten of the twelve blocks and after all of them.

    Args:
        module: built by :func:`build` with ``settings``.
        image: (B, in_channels, X, Y, Z) of a size that the network can take.
    """
    if settings.network == "unet2d":
        slices = image.movedim(-1, 1).flatten(0, 1)
        maps = module.network.levels(slices)[-2:]
        finer, deepest = (found.unflatten(0, (len(image), -1)).movedim(1, -1) for found in maps)
    elif settings.network == "unet3d":
        finer, deepest = module.levels(image)[-2:]
    elif settings.network == "unetr":
        last, hidden = module.vit(image)
        finer, deepest = module.proj_feat(hidden[9]), module.proj_feat(last)  # what the decoder's first level is given
    else:
        finer, deepest = module.swinViT(image, module.normalize)[-2:]
    return finer, deepest


def load_encoder(module: nn.Module, settings: BackboneSettings, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy the encoder's weights from ``state`` into ``module``; decoder and head stay as they are.

    Args:
        module: built by :func:`build` with ``settings``.
        state: weights of a network of the same settings, with any head or none.

    Raises:
        InputError: an encoder weight is absent from ``state`` or has another shape. Nothing is copied then.
    """
    own = module.state_dict()
    wanted = encoder_keys(settings, module)
    for key in wanted:
        found = tuple(state[key].shape) if key in state else "nothing"
        if found != tuple(own[key].shape):
            raise InputError(
                f"the encoder does not fit {settings.network} with channels {settings.channels}: weight {key!r} "
                f"has shape {tuple(own[key].shape)} here and {found} in the file. "
                "Pre-train with the same network, channels and (for unetr) patch."
            )
    with torch.no_grad():
        for key in wanted:
            own[key].copy_(state[key])  # state_dict's tensors are the module's own
    return LoadReport(
        loaded=tuple(sorted(wanted)),
        missing=tuple(sorted(set(own) - set(wanted))),
        unexpected=tuple(sorted(set(state) - set(wanted))),
    )


def save_encoder(folder: Path, settings: BackboneSettings, module: nn.Module, facts: Mapping[str, Any]) -> str:
    """Write all weights but the head, and ``facts`` about them; return the SHA-256 of the weights file."""
    head = head_keys(settings, module)
    weights = {key: value for key, value in module.state_dict().items() if key not in head}
    digest = write_tensors(folder / "encoder.safetensors", weights)
    content = {"backbone": settings.model_dump(mode="json"), "weights_sha256": digest, **facts}
    write_json(folder / "encoder.json", content)
    return digest


def read_encoder(folder: Path) -> tuple[BackboneSettings, dict[str, Tensor]]:
    """Read what :func:`save_encoder` wrote.

    Raises:
        InputError: the folder holds no encoder, or a damaged one.
    """
    if not (folder / "encoder.json").exists():
        raise InputError(f"{folder} holds no encoder (encoder.json); give the folder of a finished voxpair pretrain")
    content = read_json(folder / "encoder.json")
    path = folder / "encoder.safetensors"
    if not path.exists() or sha256(path) != content.get("weights_sha256"):
        raise InputError(f"{path} is missing or is not the file that encoder.json describes; pre-train again")
    try:
        return BackboneSettings.model_validate(content["backbone"]), read_tensors(path)
    except (KeyError, ValidationError) as error:
        raise InputError(f"{folder / 'encoder.json'} was written by another version of voxpair: {error}") from None


class _UNet(DynUNet):
    """MONAI's DynUNet, each module under one name.

    DynUNet keeps every block a second time inside nested skip layers, which doubles its state dict with shared
    tensors (safetensors refuses those) and hides which block is encoder. The same walk, written out, needs neither.
    """

    def __init__(self, dimensions: int, in_channels: int, out_channels: int, channels: Sequence[int]) -> None:
        levels = len(channels)
        super().__init__(
            dimensions,
            in_channels,
            out_channels,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=channels,
        )
        del self.skip_layers

    def levels(self, x: Tensor) -> list[Tensor]:
        """Return the encoder's feature maps, finest first."""
        maps = [self.input_block(x)]
        for down in (*self.downsamples, self.bottleneck):
            maps.append(down(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        *skips, x = self.levels(x)
        for up, skip in zip(self.upsamples, reversed(skips)):
            x = up(x, skip)
        return self.output_block(x)


class _SliceBySlice(nn.Module):
    """Lets a 2D network see a volume as a batch of its Z slices, so that all above treats volumes alike."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        slices = self.network(x.movedim(-1, 1).flatten(0, 1))
        return slices.unflatten(0, (batch, -1)).movedim(1, -1)


def _step(settings: BackboneSettings) -> int:
    """The number that a patch's sides must be multiples of."""
    fixed = {"unetr": _UNETR_TOKEN, "swin_unetr": _SWIN_STEP}
    return fixed.get(settings.network, 2 ** (len(settings.channels) - 1))


def _heads(token_width: int) -> int:
    """Attention heads of 64 channels each, as in ViT; one head for narrower tokens."""
    return max(1, token_width // 64)
