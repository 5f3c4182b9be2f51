"""The linear denoiser against linear algebra, and the flow that it alone would drive."""

import pytest
import torch

from voxpair.diffusion.gaussian import SMALLEST_POWER, GaussianPrior
from voxpair.diffusion.process import DiscreteDiffusion, RectifiedFlow
from voxpair.diffusion.sampler import euler, heun, wiener
from voxpair.diffusion.schedule import make_alpha_bars, make_betas

SHAPE = (1, 4, 6)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known_prior(trust=4.0):
    """A mean with a slope, and a power that falls with frequency."""
    prior = GaussianPrior(SHAPE, trust)
    k = torch.meshgrid(*(torch.fft.fftfreq(n) for n in SHAPE[1:]), indexing="ij")
    prior.power.copy_(5 * torch.exp(-8 * (k[0] ** 2 + k[1] ** 2))[None, None])
    prior.mean.copy_(torch.linspace(-1, 2, 24).reshape(1, *SHAPE))
    return prior


def covariance(prior):
    """That of the voxels, (24, 24), from the power spectrum: what a unit impulse becomes, for every impulse."""
    impulses = torch.eye(24).reshape(24, *SHAPE)
    spread = torch.fft.ifftn(prior.power * torch.fft.fftn(impulses, dim=(2, 3)), dim=(2, 3)).real
    return spread.reshape(24, 24)


def draw(prior, count, seed=0):
    root = torch.fft.fftn(normal(count, *SHAPE, seed=seed), dim=(2, 3)) * prior.power.sqrt()
    return prior.mean + torch.fft.ifftn(root, dim=(2, 3)).real


@pytest.mark.parametrize("signal, sigma", [(1.0, 0.3), (0.5, 0.5), (0.1, 0.9)])
def test_the_linear_estimate_is_the_posterior_mean(signal, sigma):
    prior, noisy = known_prior(), normal(3, *SHAPE, seed=1)
    mean, spread = prior.mean.reshape(24), covariance(prior)
    gain = signal * spread @ torch.linalg.inv(signal**2 * spread + sigma**2 * torch.eye(24))
    expected = mean + (noisy.reshape(3, 24) - signal * mean) @ gain.T
    found = prior.linear(noisy, torch.tensor(signal), torch.tensor(sigma))
    torch.testing.assert_close(found.reshape(3, 24), expected, rtol=1e-4, atol=1e-4)


def test_if_the_linear_estimate_is_always_taken_a_normal_remainder_is_the_posterior_s_own_doubt():
    prior, signal, sigma = known_prior(0.0), torch.tensor(0.6), torch.tensor(0.4)
    spread = covariance(prior)
    expected = torch.linalg.inv(torch.linalg.inv(spread) + signal**2 / sigma**2 * torch.eye(24))
    noisy = torch.zeros(40_000, *SHAPE)
    drawn, _ = prior.estimates(noisy, normal(40_000, *SHAPE), signal, sigma)
    found = torch.cov(drawn.reshape(-1, 24).T)
    torch.testing.assert_close(found, expected, atol=0.02 * float(expected.max()), rtol=0)


@pytest.mark.parametrize("signal, sigma", [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_whatever_the_network_says_both_estimates_make_up_what_was_seen(signal, sigma):
    prior, noisy = known_prior(), normal(2, *SHAPE)
    clean, noise = prior.estimates(noisy, normal(2, *SHAPE, seed=3), torch.tensor(signal), torch.tensor(sigma))
    torch.testing.assert_close(signal * clean + sigma * noise, noisy, atol=1e-3, rtol=0)


@pytest.mark.parametrize("trust", [0.0, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("time", [0.05, 0.5, 0.95])
def test_the_right_remainder_has_unit_variance_at_every_frequency(trust, time):
    prior, signal, sigma = known_prior(trust), torch.tensor(1 - time), torch.tensor(time)
    clean = draw(prior, 20_000)
    noisy = signal * clean + sigma * normal(20_000, *SHAPE, seed=7)
    impulse = torch.zeros(1, *SHAPE)
    impulse[..., 0, 0] = 1
    without, _ = prior.estimates(noisy, torch.zeros_like(noisy), signal, sigma)
    beside, _ = prior.estimates(noisy[:1], impulse, signal, sigma)
    spread = torch.fft.fftn(beside - without[:1], dim=(2, 3)) / torch.fft.fftn(impulse, dim=(2, 3))
    remainder = torch.fft.fftn(clean - without, dim=(2, 3), norm="ortho") / spread
    torch.testing.assert_close(remainder.abs().square().mean(0), torch.ones(SHAPE), atol=0.06, rtol=0)


def test_mean_and_power_are_measured_from_a_stream():
    truth, prior = known_prior(), GaussianPrior(SHAPE, 4.0)
    prior.measure(iter(draw(truth, 20_000)))
    torch.testing.assert_close(prior.mean, truth.mean, atol=0.06, rtol=0)
    torch.testing.assert_close(prior.power, truth.power, atol=0, rtol=0.06)


def test_a_constant_training_set_has_the_smallest_power():
    prior = GaussianPrior(SHAPE, 4.0)
    prior.measure(iter(torch.full((5, *SHAPE), 3.0)))
    assert (prior.power == torch.tensor(SMALLEST_POWER)).all()
    clean = prior.linear(normal(1, *SHAPE), torch.tensor(0.0), torch.tensor(1.0))
    torch.testing.assert_close(clean, torch.full((1, *SHAPE), 3.0))


def test_the_flow_without_a_remainder_draws_the_gaussian():
    """Along the probability flow each standardised Fourier coefficient stays what it was."""
    prior, flow, noise = known_prior(0.0), RectifiedFlow(2.0), normal(4, *SHAPE, seed=5)

    def network(x, time):
        return flow.target(*prior.estimates(x, torch.zeros_like(x), *flow.scales(time, x)), time)

    expected = prior.mean + torch.fft.ifftn(prior.power.sqrt() * torch.fft.fftn(noise, dim=(2, 3)), dim=(2, 3)).real
    errors = [float((heun(network, flow, noise, flow.times(n)) - expected).abs().max()) for n in (25, 200)]
    assert errors[1] < 0.01 and errors[1] < errors[0] / 10


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    "process",
    [RectifiedFlow(2.0), DiscreteDiffusion(make_alpha_bars(make_betas("scaled_linear", 1000), True), "v")],
    ids=["flow", "discrete"],
)
def test_a_walk_about_the_linear_denoiser_draws_the_gaussian_in_any_number_of_steps(process, steps):
    prior, noise = known_prior(), normal(4, *SHAPE, seed=5)

    def network(x, time):
        signal, sigma = process.scales(time, x)
        linear = prior.linear(x, signal, sigma)
        return process.target(linear, (x - signal * linear) / sigma, time)

    expected = prior.mean + torch.fft.ifftn(prior.power.sqrt() * torch.fft.fftn(noise, dim=(2, 3)), dim=(2, 3)).real
    found = wiener(network, process, prior, noise, process.times(steps))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_whitening_is_undone_and_has_unit_variance():
    prior, signal, sigma = known_prior(), torch.tensor(0.7), torch.tensor(0.3)
    noisy = signal * draw(prior, 4000, seed=1) + sigma * normal(4000, *SHAPE, seed=2)
    whitened = prior.whitened(noisy, signal, sigma)
    torch.testing.assert_close(prior.coloured(whitened, signal, sigma), noisy, atol=1e-4, rtol=1e-4)
    assert (whitened.abs().square().mean(0) - 1).abs().max() < 0.15


def test_the_angle_goes_from_noise_to_data():
    prior, one, zero = known_prior(), torch.tensor(1.0), torch.tensor(0.0)
    assert torch.allclose(prior.angle(zero, one), torch.tensor(torch.pi / 2)) and not prior.angle(one, zero).any()


@pytest.mark.parametrize(("power", "kept"), [(1.0, 0.865), (0.01, 0.433)])
def test_twenty_euler_steps_lose_variance_that_the_walk_about_the_linear_denoiser_keeps(power, kept):
    """At the time shift of a latent of 20^3, as the demo has it."""
    flow, prior, noise = RectifiedFlow(1.875), GaussianPrior((1, 1), 0.0), torch.ones(1, 1, 1)
    prior.power.fill_(power)

    def network(x, time):
        return flow.target(*prior.estimates(x, torch.zeros_like(x), *flow.scales(time, x)), time)

    times = flow.times(20)
    assert float(euler(network, flow, noise, times).square() / power) == pytest.approx(kept, abs=0.005)
    assert float(wiener(network, flow, prior, noise, times).square() / power) == pytest.approx(1, abs=1e-3)
