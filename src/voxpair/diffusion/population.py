"""How volumes of a training set differ as wholes, and new ones drawn from that: where a walk from noise may begin.

Takes volumes of one shape, such as latents, with what is known of each; gives draws of a Gaussian that has their mean,
their first principal components, and for the rest their power spectrum. At high noise nothing finer than this can be
seen, and a short fit knows less: its walk begins at a draw, noised, in place of pure noise.

    symbol      here                meaning
    x_i, c_i    volumes, known      training volumes (C, *), and of each what may be asked for, a vector (D,)
    mu          mean                of the x_i
    u_r         components          principal components of the x_i, each as long as its standard deviation
    a           weights             standard normal: x = mu + sum_r a_r u_r + rest
    P           rest                power spectrum of what the components leave; F: orthonormal Fourier transform
    W, S        link, spread        covariance of c with a (D, R), and of c (D, D)

    draw        mu + sum_r a_r u_r + F^-1[sqrt(P) F(e)],  e standard normal
    asked c     a has mean W' S^-1 (c - mean c) and covariance 1 - W' S^-1 W, over the entries of c that are asked for

Entries of c count in their standard deviations, and D / N is added to the diagonal of S, D without entries that never
differ: with N volumes, so much of any component would D entries explain by chance.

That samples of a diffusion model are at first those of the Gaussian with the data's mean and covariance, so that the
first part of a walk can be left out: Wang and Vastola 2023, arXiv 2311.10892. All components together would hold every
training volume; of three or more volumes, half of them do not.

Shapes: N volumes, R components, D entries, C channels, * spatial axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxpair.diffusion.fourier import from_spectrum, to_spectrum

_SMALLEST = 1e-6


class Population(nn.Module):
    """The Gaussian, kept as buffers beside a network's weights; a new one draws zeros.

    Args:
        shape: (C, *).
        components: R, of which never more than N / 2 are used; the others stay zero.
        entries: D.

    >>> population = Population((1, 2, 2), components=1, entries=0)
    >>> population.measure(torch.eye(4).reshape(4, 1, 2, 2), torch.zeros(4, 0))
    >>> population.draw(torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.Generator()).shape
    torch.Size([1, 1, 2, 2])
    """

    def __init__(self, shape: tuple[int, ...], components: int, entries: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("components", torch.zeros(components, *shape))
        self.register_buffer("rest", torch.zeros(shape))
        self.register_buffer("middle", torch.zeros(entries))
        self.register_buffer("unit", torch.ones(entries))
        self.register_buffer("link", torch.zeros(entries, components))
        self.register_buffer("spread", torch.eye(entries))

    def measure(self, volumes: Tensor, known: Tensor) -> None:
        """Take mean, components and rest of ``volumes`` (N, C, *), and their link to ``known`` (N, D)."""
        count, free = len(volumes), max(1, len(volumes) - 1)
        centred = (volumes - volumes.mean(0)).flatten(1)
        _, turns = torch.linalg.eigh((centred @ centred.T).double())  # rising
        used = min(len(self.components), count // 2)
        turns = turns[:, -used:].flip(1).to(centred) if used else turns[:, :0].to(centred)  # (N, used), orthonormal
        directions = turns.T @ centred
        rest = (centred - turns @ directions).reshape(volumes.shape)
        self.mean.copy_(volumes.mean(0))
        self.components[:used] = (directions / free**0.5).reshape(used, *volumes.shape[1:])
        self.rest.copy_(to_spectrum(rest, self.mean.ndim - 1).abs().square().sum(0) / free)
        self.middle.copy_(known.mean(0))
        deviation = ((known - self.middle).square().sum(0) / free).sqrt()
        differs = deviation > _SMALLEST
        self.unit.copy_(torch.where(differs, deviation, torch.inf))  # what never differs tells nothing
        standard = (known - self.middle) / self.unit
        self.link[:, :used] = standard.T @ turns * free**-0.5
        chance = max(1, int(differs.sum())) / count * torch.eye(known.shape[1])
        self.spread.copy_(standard.T @ standard / free + chance)

    def draw(self, asked: Tensor, is_asked: Tensor, generator: torch.Generator) -> Tensor:
        """Return one volume (1, C, *).

        Args:
            asked: (D,) entries.
            is_asked: (D,) bool, which of them count.
            generator: on the processor, so that every device gets the same numbers.
        """
        a = torch.randn(len(self.components), generator=generator).to(self.mean.device)
        e = torch.randn(self.mean.shape, generator=generator).to(self.mean.device)
        if is_asked.any():
            a = self._given(asked, is_asked, a)
        spatial = self.mean.ndim - 1
        rest = from_spectrum(self.rest.sqrt() * to_spectrum(e, spatial), spatial)
        return (self.mean + torch.tensordot(a, self.components, 1) + rest)[None]

    def _given(self, asked: Tensor, is_asked: Tensor, a: Tensor) -> Tensor:
        """Return weights of the distribution given what is asked, made of standard normal ones."""
        link, spread = self.link[is_asked], self.spread[is_asked][:, is_asked]
        gain = torch.linalg.solve(spread, link).T  # (R, asked)
        wanted = gain @ ((asked - self.middle) / self.unit)[is_asked]
        variances, axes = torch.linalg.eigh(torch.eye(len(a), device=a.device) - gain @ link)
        return wanted + axes @ (variances.clamp(min=0).sqrt() * (axes.T @ a))
