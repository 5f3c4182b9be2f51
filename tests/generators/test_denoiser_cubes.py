"""Cubes of latent voxels and the remainder are changes of coordinates: the process sees the same target."""

import pytest
import torch
from einops import rearrange
from torch import nn

from voxpair.generators.joint_ldm.denoiser import Denoiser, DiffusionSettings

SMALL = {"channels": (8, 8), "attention": (False, False), "head_channels": 8}
SHAPE = (4, 8, 12, 8)


class Answer(nn.Module):
    """A U-Net that knows the answer, in cubes of 2 x 2 x 2."""

    def __init__(self, latent):
        super().__init__()
        self.cubes = rearrange(latent, "b c (x i) (y j) (z k) -> b (c i j k) x y z", i=2, j=2, k=2)

    def forward(self, noisy, time, class_labels=None):
        assert noisy.shape[2:] == self.cubes.shape[2:]
        return self.cubes


@pytest.mark.parametrize("formulation", ["flow", "v", "epsilon"])
@pytest.mark.parametrize("trust", [None, 0.0])
def test_the_right_answer_gives_the_right_target(trust, formulation):
    random = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, *SHAPE, generator=random) for _ in range(2))
    network = Denoiser(DiffusionSettings(patch=2, trust=trust, formulation=formulation, start=1.0, **SMALL), SHAPE, 0)
    process = network.process
    time = torch.tensor([0.1, 0.5, 0.9]) if formulation == "flow" else torch.tensor([100, 500, 900])
    target = process.target(clean, noise, time)
    signal, sigma = process.scales(time, clean)
    # Under the prior of a new network, a standard normal, the remainder is (s x_0 - a eps) / sqrt(a^2 + s^2).
    remainder = (sigma * clean - signal * noise) / (signal**2 + sigma**2).sqrt()
    network.unet = Answer(target if trust is None else remainder)
    made = network(process.corrupt(clean, noise, time), time, torch.zeros(3, 0))
    torch.testing.assert_close(made, target, rtol=1e-4, atol=1e-4)


def test_an_untrained_network_is_the_linear_denoiser_where_that_is_always_taken():
    network = Denoiser(DiffusionSettings(trust=0.0, **SMALL), SHAPE, 0)
    network.prior.measure(2 + 3 * torch.randn(10, *SHAPE, generator=torch.Generator().manual_seed(1)))
    noisy, time = torch.randn(2, *SHAPE), torch.tensor([0.3, 1.0])
    signal, sigma = network.process.scales(time, noisy)
    clean = network.prior.linear(noisy, signal, sigma)
    made = network(noisy, time, torch.zeros(2, 0))
    torch.testing.assert_close(made, (noisy - signal * clean) / sigma - clean)


def test_a_walk_begins_at_a_noised_draw_of_the_population_or_at_noise():
    noise, nothing = torch.randn(1, *SHAPE), (torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    whole = Denoiser(DiffusionSettings(start=1.0, **SMALL), SHAPE, 0)
    assert whole.population is None and whole.begin(noise, *nothing, torch.Generator()) is noise
    network = Denoiser(DiffusionSettings(start=0.75, components=2, **SMALL), SHAPE, 0)
    network.population.measure(7 + torch.randn(5, *SHAPE), torch.zeros(5, 0))
    drawn = network.population.draw(*nothing, torch.Generator().manual_seed(3))
    begun = network.begin(noise, *nothing, torch.Generator().manual_seed(3))
    torch.testing.assert_close(begun, 0.25 * drawn + 0.75 * noise)
    assert float(network.process.times(4)[0]) == 0.75


@pytest.mark.parametrize("time", [0.0, 1.0])
def test_at_both_ends_the_velocity_is_finite(time):
    network = Denoiser(DiffusionSettings(**SMALL), SHAPE, 0)
    assert torch.isfinite(network(torch.randn(1, *SHAPE), torch.tensor([time]), torch.zeros(1, 0))).all()


def test_a_latent_must_fit_into_cubes_and_levels():
    assert DiffusionSettings(patch=2, **SMALL).downsampling == 4
