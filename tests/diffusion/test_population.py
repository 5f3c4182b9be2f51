"""Draws from the Gaussian of a training set: their mean, covariance and what is asked of them, against known ones."""

import pytest
import torch

from voxpair.diffusion.population import Population

SHAPE = (1, 4, 6)
COUNT, DRAWS = 400, 4000
NOTHING = torch.zeros(0), torch.zeros(0, dtype=torch.bool)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def standard(columns):
    """(COUNT, columns) of mean 0, standard deviation 1 and no correlation, exactly."""
    centred = normal(COUNT, columns) - normal(COUNT, columns).mean(0)
    return torch.linalg.qr(centred)[0] * (COUNT - 1) ** 0.5


def directions():
    """Two orthogonal volumes of length 3 and 2."""
    ramp, step = torch.linspace(-1, 1, 6).expand(1, 4, 6), torch.tensor([-1.0, -1, 1, 1])[None, :, None].expand(1, 4, 6)
    return torch.stack([3 * ramp / ramp.norm(), 2 * step / step.norm()])


def volumes(weights, seed=1):
    """Volumes of mean 5 with these weights (N, 2) of the directions, and white noise of SD 0.1."""
    return 5 + torch.tensordot(weights, directions(), 1) + 0.1 * normal(len(weights), *SHAPE, seed=seed)


def drawn(population, count, asked=NOTHING):
    generator = torch.Generator().manual_seed(2)
    return torch.cat([population.draw(*asked, generator) for _ in range(count)])


def fitted(weights, components, known=None):
    known = torch.zeros(len(weights), 0) if known is None else known
    population = Population(SHAPE, components, known.shape[1])
    population.measure(volumes(weights), known)
    return population


@pytest.mark.parametrize("components", [1, 2, 5])
def test_draws_have_the_mean_and_the_covariance_of_the_data(components):
    weights = standard(2)
    made = drawn(fitted(weights, components), DRAWS).flatten(1)
    torch.testing.assert_close(made.mean(0), torch.full((24,), 5.0), atol=0.06, rtol=0)
    true = torch.cov(volumes(weights).flatten(1).T)
    assert float(torch.trace(torch.cov(made.T)) / torch.trace(true)) == pytest.approx(1, abs=0.05)
    if components > 1:  # what is left to the spectrum is as in the data only where it stands still
        torch.testing.assert_close(torch.cov(made.T), true, atol=0.06, rtol=0)


def test_components_are_as_long_as_their_standard_deviations():
    population = fitted(standard(2), 3)
    lengths = population.components.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.tensor([3.0, 2.0, 0.1]), rtol=0.05, atol=0.05)
    direction = directions()[0].flatten() / 3
    assert abs(float(population.components[0].flatten() @ direction)) == pytest.approx(3, rel=0.05)


def test_one_volume_is_drawn_as_it_is():
    population, only = Population(SHAPE, 4, 2), normal(1, *SHAPE)
    population.measure(only, torch.ones(1, 2))
    asked = torch.tensor([1.0, 3.0]), torch.tensor([True, True])
    torch.testing.assert_close(drawn(population, 2, asked), only.expand(2, *SHAPE))


def test_never_more_components_are_used_than_half_the_volumes():
    population = Population(SHAPE, 4, 0)
    two = normal(2, *SHAPE)
    population.measure(two, torch.zeros(2, 0))
    assert population.components[1:].abs().max() == 0 and population.rest.abs().max() < 1e-6
    line = drawn(population, 20) - two.mean(0)  # all on the line through the two
    along = (two[0] - two[1]).flatten() / (two[0] - two[1]).norm()
    off = line.flatten(1) - (line.flatten(1) @ along)[:, None] * along
    assert off.abs().max() < 1e-4


def test_what_is_asked_moves_the_draws_as_regression_does():
    weights, third = standard(3).split([2, 1], 1)
    known = torch.cat([4 + 2 * weights[:, :1] + third, torch.ones(COUNT, 1)], 1)
    population = fitted(weights, 2, known)  # corr(c, a) = 2 / sqrt 5; the second entry never differs
    asked = torch.tensor([4 + 2 * 5**0.5, 1.0]), torch.tensor([True, True])  # two deviations above the mean
    unit = directions().flatten(1) / torch.tensor([[3.0], [2.0]])
    along = (drawn(population, DRAWS, asked) - 5).flatten(1) @ unit.T
    assert along.mean(0).tolist() == pytest.approx([3 * 4 / 5**0.5, 0], abs=0.12)
    assert along.std(0).tolist() == pytest.approx([3 / 5**0.5, 2], rel=0.06)


def test_entries_that_are_not_asked_for_change_nothing():
    weights = standard(2)
    population = fitted(weights, 2, weights[:, :1])
    open_entry = torch.tensor([9.0]), torch.tensor([False])
    plain = fitted(weights, 2)
    torch.testing.assert_close(drawn(population, 3, open_entry), drawn(plain, 3))


def test_many_entries_explain_little_of_few_volumes():
    few, seen = normal(6, 2), normal(6, 40, seed=4)
    population = fitted(few, 4, seen)
    asked = 3 * torch.ones(40), torch.ones(40, dtype=torch.bool)
    far = (drawn(population, 50, asked) - population.mean).flatten(1).norm(dim=1).mean()
    usual = (drawn(fitted(few, 4), 50) - population.mean).flatten(1).norm(dim=1).mean()
    assert torch.isfinite(far) and far < 4 * usual
