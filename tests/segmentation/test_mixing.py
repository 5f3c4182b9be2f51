"""What the updates see: exact ratios, whole epochs, real cases alone at the end, the same on any number of devices."""

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from segmentation.balls import balls
from voxpair.cohorts.datasets import PreparedCohort
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.labels import HIPPOCAMPUS
from voxpair.segmentation.mixing import MixedBatches, MixSettings, Mixture


def mixture(share, last=0.0, *, real=5, synthetic=7, updates=60, places=4, seed=0):
    return Mixture(real, synthetic, MixSettings(synthetic_share=share, real_only_last=last), updates, places, seed)


def chosen(mix, updates=None):
    return [
        [mix.choose(update, position) for position in range(mix.places)] for update in updates or range(mix.updates)
    ]


@pytest.mark.parametrize(("share", "synthetic"), [(0, 0), (1 / 3, 80), (0.5, 120), (2 / 3, 160), (0.75, 180), (1, 240)])
def test_the_share_is_exact_over_a_fit_and_within_one_case_in_each_update(share, synthetic):
    batches = chosen(mixture(share))
    counts = [sum(is_synthetic for is_synthetic, _ in batch) for batch in batches]
    assert sum(counts) == synthetic  # of 60 updates of 4 cases
    assert all(abs(count - 4 * share) < 1 for count in counts)


@pytest.mark.parametrize("share", [0.41, 0.75])
def test_each_kind_comes_in_epochs_of_its_own(share):
    row = [case for batch in chosen(mixture(share)) for case in batch]
    for kind, count in ((False, 5), (True, 7)):
        order = [index for is_synthetic, index in row if is_synthetic == kind]
        for start in range(0, len(order) - count, count):
            assert sorted(order[start : start + count]) == list(range(count))


def test_the_last_updates_see_real_cases_alone_and_go_on_with_their_epoch():
    mix = mixture(0.75, last=0.25)
    kinds = [[is_synthetic for is_synthetic, _ in batch] for batch in chosen(mix)]
    assert all(sum(kind) == 3 for kind in kinds[:45]) and not any(sum(kind) for kind in kinds[45:])
    order = [index for batch in chosen(mix) for is_synthetic, index in batch if not is_synthetic]
    assert all(sorted(order[i : i + 5]) == list(range(5)) for i in range(0, 45 + 60, 5))


@pytest.mark.parametrize(("last", "synthetic"), [(0.0, 180), (1.0, 0)])
def test_real_only_last_at_its_ends(last, synthetic):
    assert sum(is_synthetic for batch in chosen(mixture(0.75, last)) for is_synthetic, _ in batch) == synthetic


def test_without_synthetic_cases_all_are_real():
    assert not any(is_synthetic for batch in chosen(mixture(0.75, synthetic=0)) for is_synthetic, _ in batch)


def test_another_seed_gives_another_order_of_the_same_kinds():
    first, second = (chosen(mixture(0.5, seed=seed)) for seed in (0, 1))
    assert first != second
    assert [[k for k, _ in batch] for batch in first] == [[k for k, _ in batch] for batch in second]


@pytest.mark.parametrize("values", [{"synthetic_share": 1.1}, {"real_only_last": -0.1}])
def test_impossible_mixtures_are_refused(values):
    with pytest.raises(ValidationError):
        MixSettings(**values)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixing")
    preprocessor = Preprocessor(PreprocessSettings(grid=(8, 8, 8)), HIPPOCAMPUS, "MRI")
    return [
        PreparedCohort.build(balls(folder / source, count, source=source), preprocessor, folder / "prepared")
        for source, count in (("real", 3), ("synthetic", 4))
    ]


def test_two_devices_share_out_the_batch_that_one_would_see(prepared):
    settings = MixSettings(synthetic_share=0.5, real_only_last=0)
    one = MixedBatches(*prepared, settings, updates=8, batch_size=4, seed=0)
    two = MixedBatches(*prepared, settings, updates=8, batch_size=2, seed=0)
    for update in range(8):
        whole = one.batch(update)
        parts = [two.batch(update, rank, world_size=2) for rank in (0, 1)]
        assert whole["names"] == parts[0]["names"] + parts[1]["names"]
        assert torch.equal(whole["image"], torch.cat([part["image"] for part in parts]))
        assert Counter(name[:4] for name in whole["names"]) == {"real": 2, "synt": 2}
