"""The segmenter's encoder as a feature extractor: how a network that learnt from real scans sees a case.

Takes a fitted :class:`Segmenter` and cases; gives a vector per view. Fidelity is measured between two sets of them.

    step      how
    prepare   the segmenter's own grid and intensities; nothing of the labels is used
    encode    the grid in whole windows side by side (one, where the network sees the whole grid); the two
              deepest feature maps
    slice     a view's slices in the central 40 % along its axis: x sagittal, y coronal, z axial
    pool      mean over each slice; then mean and SD over the slices, joined over the two maps

Use a segmenter fitted on real cases only, without an encoder pre-trained on synthetic ones: one that has seen the
synthetic cases is at home with their faults.

What it sees is anatomy, and little else: a segmenter learns to ignore noise and contrast, and the U-Nets normalise
every channel over the volume, so that 100 HU more everywhere hardly change the features. Grey values, noise and
sharpness are therefore measured on the images themselves (``evaluation.pairs.texture``).

Shapes: B batch, C channels, X Y Z axes of a feature map, D = 2 (C + C') of the two maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.networks.backbones import encoder_features
from voxpair.segmentation.segmenter import Segmenter

_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
_MARGIN = 0.3  # of an axis, left out at either end


class EncoderFeatures:
    """An :class:`~voxpair.core.interfaces.Extractor` made of a fitted segmenter.

    Args:
        segmenter: fitted or loaded.
        where: what readers know the segmenter by, such as its run folder.

    Raises:
        InputError: the segmenter has no weights yet.
    """

    def __init__(self, segmenter: Segmenter, where: str) -> None:
        if not segmenter.digest:
            raise InputError(f"the segmenter of {where} has no weights yet: fit it, or load one with Segmenter.load")
        self.name = f"{segmenter.settings.backbone.network} encoder of {where}"
        self.digest = segmenter.digest
        self._segmenter = segmenter

    def features(self, case: Case) -> Mapping[str, np.ndarray]:
        """Return a vector (D,) float32 for each of "sagittal", "coronal" and "axial"."""
        prepared = self._segmenter.preprocessor.forward(replace(case, labels=None))
        maps = self._maps(torch.from_numpy(prepared.image))
        return {
            view: torch.cat([pooled for found in maps for pooled in pool(found, axis)]).float().cpu().numpy()
            for view, axis in _AXES.items()
        }

    @torch.inference_mode()
    def _maps(self, image: Tensor) -> list[Tensor]:
        """Return the two feature maps (C, X, Y, Z) of a prepared image.

        Windows side by side and not overlapping, so that every voxel of a map is computed once; what they reach
        beyond the grid is filled with zeros and cut off again.
        """
        network, settings = self._segmenter.network, self._segmenter.settings
        window = settings.window
        whole = [math.ceil(side / step) * step for side, step in zip(image.shape, window)]
        padding = [(0, after - side) for side, after in zip(image.shape, whole)]
        filled = torch.nn.functional.pad(image, [end for pair in reversed(padding) for end in pair])
        device = next(network.parameters()).device
        found = sliding_window_inference(
            filled[None, None].to(device),
            roi_size=window,
            sw_batch_size=1,
            predictor=lambda part: encoder_features(network, settings.backbone, part),
            overlap=0,
        )
        kept = [
            [max(1, round(side / after * size)) for side, after, size in zip(image.shape, whole, features.shape[2:])]
            for features in found
        ]
        return [features[0, :, :x, :y, :z] for features, (x, y, z) in zip(found, kept)]


def pool(features: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the SD (C,) over the central slices along ``axis`` of the mean over each slice.

    >>> ramp = torch.arange(10.0).expand(1, 2, 2, 10)
    >>> [round(float(x), 3) for x in pool(ramp, axis=2)]
    [4.5, 1.118]
    """
    slices = features.movedim(axis + 1, 1).mean(dim=(2, 3))  # (C, slices)
    margin = int(_MARGIN * slices.shape[1])
    central = slices[:, margin : slices.shape[1] - margin]
    return central.mean(dim=1), central.std(dim=1, correction=0)
