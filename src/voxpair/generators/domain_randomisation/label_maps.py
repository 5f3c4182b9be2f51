"""Label maps of training cases, with the unlabelled part divided by brightness, and how bright each class is.

Takes prepared, annotated cases; gives maps to paint, and levels and spreads drawn as they vary over those cases.

Source: Otsu 1979, with several thresholds, for the division: k-means of grey values, without chance.
Shapes: N maps, K painted classes, X Y Z volume axes.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage, stats
from skimage.filters import threshold_multiotsu
from torch import nn

from voxpair.cohorts.datasets import PreparedCase
from voxpair.cohorts.geometry import Shape

GREYS = 64
"""Bins of the histogram by which grey values are divided; more cost time and change nothing one sees."""


def classes_to_paint(case: PreparedCase, background_classes: int, smoothing_voxels: float) -> np.ndarray:
    """Return the background's classes 0 to ``background_classes - 1``, then the structures: (X, Y, Z) uint8."""
    labels = np.asarray(case.labels)
    background = labels == 0
    smooth = ndimage.gaussian_filter(np.asarray(case.image), smoothing_voxels)
    classes = labels + np.uint8(background_classes - 1)
    classes[background] = divide_by_brightness(smooth[background], background_classes)
    return classes


def divide_by_brightness(values: np.ndarray, classes: int) -> np.ndarray:
    """Return for each value its class, 0 for the darkest, such that the variance within classes is smallest (Otsu).

    Fewer classes than asked for come out where there are fewer greys.

    >>> divide_by_brightness(np.array([0.9, 0.0, 0.5, 0.1, 1.0]), 3).tolist()
    [2, 0, 1, 0, 2]
    """
    counts, edges = np.histogram(values, GREYS)
    classes = min(classes, np.count_nonzero(counts))
    if classes < 2:
        return np.zeros(len(values), np.uint8)
    thresholds = threshold_multiotsu(classes=classes, hist=(counts, edges[1:]))
    return np.digitize(values, thresholds).astype(np.uint8)


class LabelMaps(nn.Module):
    """What the fit keeps; a module only so that it is saved, loaded and named as networks are.

    Attributes:
        maps: (N, X, Y, Z) uint8 painted classes: the background's, from dark to bright, then the structures.
        voxels, levels, spreads: (N, K) voxels of each class in each map, median and standard deviation of the image
            there, the latter from the median absolute deviation, so that a wire of metal is no texture; 0 where a
            map has none.
    """

    def __init__(self, count: int, grid: Shape, classes: int) -> None:
        super().__init__()
        self.register_buffer("maps", torch.zeros(count, *grid, dtype=torch.uint8))
        self.register_buffer("voxels", torch.zeros(count, classes, dtype=torch.int64))
        self.register_buffer("levels", torch.zeros(count, classes, dtype=torch.float64))
        self.register_buffer("spreads", torch.zeros(count, classes, dtype=torch.float64))

    def put(self, index: int, classes: np.ndarray, image: np.ndarray) -> None:
        """Keep a map of shape (X, Y, Z) and measure the image under it."""
        self.maps[index] = torch.from_numpy(classes)
        for k in range(self.voxels.shape[1]):
            values = image[classes == k]
            self.voxels[index, k] = values.size
            if values.size:
                self.levels[index, k] = float(np.median(values))
                self.spreads[index, k] = float(stats.median_abs_deviation(values, scale="normal"))

    def draw_intensities(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return levels and spreads of shape (K,), normal with the training cases' mean and covariance.

        A random mixture of the cases' deviations from their mean has the covariance of the cases.
        """
        known = self.voxels.numpy() > 0
        count = known.sum(0)
        weights = random.normal(size=len(known))
        drawn = []
        for table in (self.levels.numpy(), self.spreads.numpy()):
            centre = table.sum(0) / np.maximum(count, 1)
            deviation = np.where(known, table - centre, 0) / np.sqrt(np.maximum(count - 1, 1))
            drawn.append(centre + weights @ deviation)
        return drawn[0], np.maximum(drawn[1], 0)
