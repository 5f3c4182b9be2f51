"""Closed forms: for Gaussian data every ideal network, exact flow and sampling error is known."""

import itertools
import math

import pytest
import torch
from monai.networks.schedulers import NoiseSchedules

from voxpair.core.errors import InputError
from voxpair.diffusion.gaussian import GaussianPrior
from voxpair.diffusion.process import DiscreteDiffusion, RectifiedFlow
from voxpair.diffusion.sampler import ddim, ddpm, dpm_solver, euler, guide, heun, sample, wiener
from voxpair.diffusion.schedule import (
    flow_times,
    make_alpha_bars,
    make_betas,
    resolution_shift,
    shift_times,
    spaced_times,
)

MEAN, STD = 0.7, 0.5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def discrete(prediction="epsilon", steps=1000, zero=False):
    return DiscreteDiffusion(make_alpha_bars(make_betas("scaled_linear", steps), zero), prediction)


def ideal_velocity(x, t):
    """E[noise - clean | x_t = x] for clean ~ N(MEAN, STD^2)."""
    t = t[:, None]
    gain = (t - (1 - t) * STD**2) / ((1 - t) ** 2 * STD**2 + t**2)
    return gain * (x - (1 - t) * MEAN) - MEAN


def ideal_network(process):
    """The network of a discrete process at its optimum, from E[clean | x_t = x]."""

    def network(x, time):
        signal, sigma = process.scales(time, x)
        clean = MEAN + signal * STD**2 / (signal**2 * STD**2 + sigma**2) * (x - signal * MEAN)
        noise = sigma / (signal**2 * STD**2 + sigma**2) * (x - signal * MEAN)
        return process.target(clean, noise, time)

    return network


def exact_flow(process, x, start, end):
    """Solution of the probability flow: the standardised value stays what it was."""
    a, b = float(process.alpha_bars[start]), float(process.alpha_bars[end])
    standard = (x - math.sqrt(a) * MEAN) / math.sqrt(a * STD**2 + 1 - a)
    return math.sqrt(b) * MEAN + math.sqrt(b * STD**2 + 1 - b) * standard


def orders(errors):
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize("shift", [0.4, 1.0, 3.7])
@pytest.mark.parametrize("steps", [1, 7, 30, 1000])
def test_flow_times_fall_from_1_to_0_and_their_steps_sum_to_exactly_1(steps, shift):
    for times in (flow_times(steps, shift), flow_times(steps, shift).float()):
        assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0
        assert (times.diff() < 0).all() and sum((-times.diff()).tolist()) == 1


def test_shift_follows_the_resolution_and_keeps_the_ends():
    assert resolution_shift(32**3, 1.0) == 1 and resolution_shift(128**3, 1.5) == 6
    torch.testing.assert_close(shift_times(torch.tensor([0.0, 0.5, 1.0]), 3.0), torch.tensor([0.0, 0.75, 1.0]))
    with pytest.raises(InputError, match="at least 1 voxel"):
        resolution_shift(0)
    with pytest.raises(InputError, match="at least 1 step"):
        flow_times(0)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_betas_agree_with_monai(name):
    theirs = NoiseSchedules[f"{name}_beta"](1000, 0.0015, 0.0195)
    torch.testing.assert_close(make_betas(name, 1000).float(), theirs)


def test_cosine_betas_agree_with_monai_but_for_the_clipped_end():
    theirs = NoiseSchedules["cosine"](1000)[0]  # its third table, alpha_cumprod, is off by one: not compared
    torch.testing.assert_close(make_betas("cosine", 1000)[:-1].float(), theirs[:-1], atol=1e-6, rtol=1e-4)


def test_zero_terminal_snr_is_exactly_zero_and_keeps_the_first_level():
    plain, zero = discrete().alpha_bars, discrete("v", zero=True).alpha_bars
    assert plain[-1] > 0 and zero[-1] == 0 and zero[0] == 1
    torch.testing.assert_close(zero[1], plain[1])
    with pytest.raises(InputError, match="zero terminal SNR"):
        discrete("epsilon", zero=True)


def test_alpha_bars_that_rise_are_refused():
    with pytest.raises(InputError, match="fall strictly"):
        DiscreteDiffusion(torch.tensor([1.0, 0.5, 0.6]))


@pytest.mark.parametrize("process", [RectifiedFlow(2.0), discrete("epsilon"), discrete("v"), discrete("v", zero=True)])
def test_estimates_invert_corruption_and_target(process):
    clean, noise = normal(16, 2, 3, 3, 3), normal(16, 2, 3, 3, 3, seed=1)
    time = process.draw_times(16, torch.Generator().manual_seed(0))
    noisy = process.corrupt(clean, noise, time)
    found = process.estimates(noisy, process.target(clean, noise, time), time)
    torch.testing.assert_close(found[0], clean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], noise, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_training_times_have_the_stated_density(density):
    times = RectifiedFlow(1.0, density).draw_times(20000, torch.Generator().manual_seed(0))
    below = float((times < 0.25).double().mean())
    expected = 0.25 if density == "uniform" else 0.5 * (1 + math.erf(math.log(1 / 3) / math.sqrt(2)))
    assert abs(below - expected) < 0.01 and times.min() >= 0 and times.max() <= 1
    shifted = RectifiedFlow(3.0, density).draw_times(20000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(shifted, shift_times(times, 3.0))


@pytest.mark.parametrize("shift", [0.4, 1.0, 3.7])
def test_a_flow_with_a_start_is_learnt_and_walked_below_it_alone(shift):
    flow = RectifiedFlow(shift, start=0.9)
    times, learnt = flow.times(7), flow.draw_times(20000, torch.Generator().manual_seed(0))
    assert float(times[0]) == pytest.approx(0.9, abs=1e-7) and times[-1] == 0 and (times.diff() < 0).all()
    assert learnt.min() >= 0 and 0.89 < learnt.max() <= 0.9
    everywhere = RectifiedFlow(shift).draw_times(200_000, torch.Generator().manual_seed(1))
    kept = everywhere[everywhere <= 0.9]  # as dense as without a start, up to the share that is left out
    torch.testing.assert_close(torch.quantile(learnt, 0.5), torch.quantile(kept, 0.5), atol=0.01, rtol=0)


def test_discrete_training_times_cover_1_to_T():
    times = discrete(steps=10).draw_times(1000, torch.Generator().manual_seed(0))
    assert sorted(set(times.tolist())) == list(range(1, 11))


def test_spaced_times_begin_at_full_noise_and_end_clean():
    assert spaced_times(1000, 3).tolist() == [1000, 667, 333, 0]
    assert spaced_times(1000, 1000).tolist() == list(range(1000, -1, -1))
    with pytest.raises(InputError, match="1 to 10 steps"):
        spaced_times(10, 11)


@pytest.mark.parametrize(("walk", "order"), [(euler, 1), (heun, 2)])
def test_order_of_flow_samplers(walk, order):
    noise = normal(64, 1)
    exact = MEAN + STD * noise
    errors = [
        float((walk(ideal_velocity, RectifiedFlow(), noise, flow_times(n)) - exact).abs().mean()) for n in (32, 64, 128)
    ]
    assert all(abs(found - order) < 0.15 for found in orders(errors)), orders(errors)


def test_order_of_the_walk_about_a_linear_denoiser_that_is_wrong():
    prior, noise = GaussianPrior((1, 1), 0.0), normal(64, 1, 1)  # standard normal, but the data are not
    exact = MEAN + STD * noise
    errors = [
        float((wiener(ideal_velocity, RectifiedFlow(), prior, noise, flow_times(n)) - exact).abs().mean())
        for n in (32, 64, 128)
    ]
    assert all(abs(found - 2) < 0.2 for found in orders(errors)), orders(errors)


def even_in_log_snr(process, steps):
    """Whole times whose log-SNR is as even as a table of many levels allows, from T to level 200, then clean."""
    bars = process.alpha_bars[1:]
    half_log_snr = 0.5 * torch.log(bars / (1 - bars))
    wanted = torch.linspace(float(half_log_snr[-1]), float(half_log_snr[199]), steps + 1, dtype=torch.float64)
    indices = len(bars) - torch.searchsorted(half_log_snr.flip(0), wanted, right=True).clamp(1, len(bars))
    return torch.cat([indices + 1, torch.zeros(1, dtype=torch.long)])


@pytest.mark.parametrize(("walk", "order"), [(ddim, 1), (dpm_solver, 2)])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_order_of_discrete_samplers(walk, order, prediction):
    betas = make_betas("scaled_linear", 200000, 0.0015 / 200, 0.0195 / 200)
    process = DiscreteDiffusion(make_alpha_bars(betas), prediction)
    noise, network, errors = normal(64, 1), ideal_network(process), []
    for steps in (16, 32, 64):
        times = even_in_log_snr(process, steps)
        almost = exact_flow(process, noise, times[0], times[-2])  # then the same last step, into clean data
        exact = ddim(network, process, almost, times[-2:])
        errors.append(float((walk(network, process, noise, times) - exact).abs().mean()))
    assert all(abs(found - order) < 0.3 for found in orders(errors)), orders(errors)


@pytest.mark.parametrize("zero", [False, True])
def test_zero_terminal_snr_samples_keep_the_mean_brightness(zero):
    """A constant offset of all data is lost by the plain schedule's last level only where training never sees it."""
    process = discrete("v", zero=zero)
    for name in ("ddim", "dpm_solver"):
        found = sample(name, ideal_network(process), process, normal(4000, 1), 200, ())
        assert abs(float(found.mean()) - MEAN) < 0.02 and abs(float(found.std()) - STD) < 0.02


@pytest.mark.parametrize(("prediction", "zero"), [("epsilon", False), ("v", True)])
def test_ancestral_sampling_reproduces_mean_and_deviation(prediction, zero):
    process = discrete(prediction, zero=zero)
    generators = [torch.Generator().manual_seed(i) for i in range(20)]
    found = ddpm(ideal_network(process), process, normal(20, 200), process.times(1000), generators)
    assert abs(float(found.mean()) - MEAN) < 0.03 and abs(float(found.std()) - STD) < 0.02


def test_ancestral_noise_of_a_volume_does_not_depend_on_its_neighbours():
    process, noise = discrete(steps=20), normal(3, 4)

    def walk(rows):
        generators = [torch.Generator().manual_seed(i) for i in rows]
        return sample("ddpm", ideal_network(process), process, noise[rows], 10, generators)

    torch.testing.assert_close(walk([0, 1, 2])[2:], walk([2]), rtol=0, atol=0)


def test_guidance_formula_and_its_saved_evaluation():
    calls = []

    def network(x, time, condition):
        calls.append(condition)
        return x + condition

    x, condition, null = torch.ones(2, 1), torch.full((2, 1), 3.0), torch.zeros(2, 1)
    torch.testing.assert_close(guide(network, condition, null, 2.0)(x, x[:, 0]), 1 + 2 * condition)
    calls.clear()
    guide(network, null, null, 2.0)(x, x[:, 0])
    guide(network, condition, null, 1.0)(x, x[:, 0])
    assert len(calls) == 2
    with pytest.raises(InputError, match="at least 1"):
        guide(network, condition, null, 0.5)


def test_a_sampler_of_the_other_process_is_refused():
    with pytest.raises(InputError, match="it has euler, heun"):
        sample("ddim", ideal_velocity, RectifiedFlow(), normal(1, 1), 4, ())
    with pytest.raises(InputError, match="no sampler 'wiener'"):
        sample("wiener", ideal_velocity, RectifiedFlow(), normal(1, 1), 4, ())  # without a prior
