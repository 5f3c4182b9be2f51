"""The best linear denoiser, and a network's share on top of it.

Takes volumes of one shape, such as the latents of a training set; gives estimates of data and noise from noisy ones.
A Gaussian with the mean and the power spectrum of the data has its denoiser in closed form (Wiener 1949). It knows how
bright a volume is, where things lie on average and how smooth they are. A network finds these hard: they hold almost
all the power, at the lowest frequencies, and normalisation of its groups takes brightness away.

    symbol      here                meaning
    x_0         clean               data: about normal, mean mu, independent Fourier coefficients of variance P(k)
    x_t         noisy               a x_0 + s eps
    a, s        signal, sigma       ``process.scales``: flow 1 - t and t, discrete sqrt(abar_t) and sqrt(1 - abar_t)
    mu, P       mean, power         of the training set, per channel, with the orthonormal Fourier transform F
    w           weight              1 / (a^2 P + s^2), inverse variance of F(x_t)
    d           seen                F(x_t - a mu)
    m           doubt               s^2 w, the share of P that the linear denoiser leaves open; 0 clean, 1 noise
    g           trusted             (1 - m)^n, how much of the linear estimate is taken; n is ``trust``
    R           remainder           what the network gives, about standard normal

    linear      E[x_0 | x_t] = mu + F^-1[a P w d]
    clean       mu + F^-1[g a P w d + sqrt(P (m + (1 - g)^2 (1 - m))) F(R)]
    noise       (x_t - a clean) / s

The root is the standard deviation of what is left of F(x_0), so every frequency counts alike in R. With n = 0 the
linear estimate is always taken, as in Karras et al. 2022, Eq. 7 (who have P = 1): the network must then also give the
noise that this estimate lets through. Without a limit to n the network gives the clean volume itself (Li and He 2025,
arXiv 2511.13720), and brightness with it. In between, it is taken where it is nearly certain.

From noise to data each frequency turns by its own angle, and only what the network adds turns it (``sampler.wiener``):

    D           deviation           sqrt(a^2 P + s^2), of d
    y           whitened            d / D
    theta       angle               tan theta = s / (a sqrt(P))
    Q           added               F(clean - linear) / (sqrt(P) sin theta), and dy = -Q dtheta along the flow

That the linear part explains most of a denoiser at high noise: Wang and Vastola 2023, arXiv 2311.10892.

Shapes: B batch, C channels, * spatial axes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from voxpair.diffusion.fourier import from_spectrum, to_spectrum

SMALLEST_POWER = 1e-6
SMALLEST_SIGMA = 1e-4


class GaussianPrior(nn.Module):
    """Mean (1, C, *) and power spectrum (1, C, *) of volumes, kept as buffers beside a network's weights.

    A new one is standard normal: mean 0, power 1.

    Args:
        shape: (C, *).
        trust: n, at least 0.

    >>> prior = GaussianPrior((1, 2, 2), trust=0)
    >>> prior.linear(torch.ones(1, 1, 2, 2), torch.tensor(0.6), torch.tensor(0.8))[0, 0, 0]  # shrunk by a / (a^2 + s^2)
    tensor([0.6000, 0.6000])
    """

    def __init__(self, shape: tuple[int, ...], trust: float) -> None:
        super().__init__()
        self.trust = trust
        self.register_buffer("mean", torch.zeros(1, *shape))
        self.register_buffer("power", torch.ones(1, *shape))

    def measure(self, volumes: Iterable[Tensor]) -> None:
        """Take mean and power, in float64, from a stream of volumes (C, *)."""
        count, total, squares = 0, 0.0, 0.0
        for volume in volumes:
            count, total = count + 1, total + volume.double()
            squares = squares + self._transform(volume.double()).abs().square()
        mean = total / count
        power = squares / count - self._transform(mean).abs().square()
        self.mean.copy_(mean[None])
        self.power.copy_(power.clamp(min=SMALLEST_POWER)[None])

    def linear(self, noisy: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        """Return E[x_0 | x_t], (B, C, *).

        Args:
            noisy: (B, C, *) float32.
            signal, sigma: a and s, shaped to multiply ``noisy``; not both 0.
        """
        weight = 1 / (signal**2 * self.power + sigma**2)
        return self.mean + self._back(signal * self.power * weight * self._transform(noisy - signal * self.mean))

    def estimates(self, noisy: Tensor, remainder: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimates of data and noise, each (B, C, *), that R ``remainder`` (B, C, *) stands for."""
        sigma = sigma.clamp(min=SMALLEST_SIGMA)
        weight = 1 / (signal**2 * self.power + sigma**2)
        doubt = (sigma**2 * weight).clamp(max=1)
        trusted = (1 - doubt) ** self.trust
        left = -torch.expm1(self.trust * torch.log1p(-doubt)) if self.trust else torch.zeros_like(doubt)  # 1 - trusted
        linear = trusted * signal * self.power * weight * self._transform(noisy - signal * self.mean)
        spread = (self.power * (doubt + left**2 * (1 - doubt))).sqrt()
        clean = self.mean + self._back(linear + spread * self._transform(remainder))
        return clean, (noisy - signal * clean) / sigma

    def whitened(self, noisy: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        """Return d / D, complex (B, C, *): of unit variance at every time, and standing still in the linear flow."""
        return self._transform(noisy - signal * self.mean) / self._deviation(signal, sigma)

    def coloured(self, whitened: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        """Return the volumes (B, C, *) that :meth:`whitened` takes apart."""
        return signal * self.mean + self._back(self._deviation(signal, sigma) * whitened)

    def angle(self, signal: Tensor, sigma: Tensor) -> Tensor:
        """Return theta, (B, C, *): how far each frequency is from data, 0, to noise, pi / 2."""
        return torch.atan2(sigma, signal * self.power.sqrt())

    def added(self, clean: Tensor, noisy: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
        """Return Q, complex (B, C, *): what an estimate of the data has beyond the linear one; ``sigma`` above 0."""
        sine = sigma / self._deviation(signal, sigma)
        return self._transform(clean - self.linear(noisy, signal, sigma)) / (self.power.sqrt() * sine)

    def _deviation(self, signal: Tensor, sigma: Tensor) -> Tensor:
        return (signal**2 * self.power + sigma**2).sqrt()

    def _transform(self, volume: Tensor) -> Tensor:
        return to_spectrum(volume, self.mean.ndim - 2)

    def _back(self, spectrum: Tensor) -> Tensor:
        return from_spectrum(spectrum, self.mean.ndim - 2)
