"""Caches are never stale, batches are pure functions, patches find what they look for."""

import pickle
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from voxpair.cohorts.augment import GeometricJitter, JitterSettings, PaperAugmentation
from voxpair.cohorts.datasets import CaseBatches, PreparedCohort, draw, pick, stack
from voxpair.cohorts.preprocess import Preprocessor, PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError, RunError
from voxpair.core.labels import HIPPOCAMPUS, LabelTable
from voxpair.core.run import Silent
from voxpair.core.settings import digest

TABLE = LabelTable.from_mapping("two", {"large": 3, "tiny": 9})


@dataclass
class Record:
    name: str


class FakeCohort:
    """A cohort in memory that counts how often it is read."""

    def __init__(self, cases, label_table=TABLE, modality="MRI", version=0):
        self.cases = {case.name: case for case in cases}
        self.label_table, self.modality, self.version = label_table, modality, version
        self.reads = Counter()

    @property
    def records(self):
        return [Record(name) for name in self.cases]

    def read(self, name):
        self.reads[name] += 1
        return self.cases[name]

    def __len__(self):
        return len(self.cases)

    def digest(self):
        return digest([sorted(self.cases), self.version])


class Listener(Silent):
    def __init__(self):
        self.said, self.started = [], []

    def say(self, message):
        self.said.append(message)

    def start(self, description, total, done=0):
        self.started.append((total, done))


def case(index, labelled=True, shape=(12, 10, 8)):
    image = np.random.default_rng(index).normal(size=shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    labels[2:8, 2:8, 2:6] = 3
    labels[10, 8, 6] = 9
    return Case(
        name=f"case_{index}",
        image=image,
        labels=labels if labelled else None,
        affine=np.eye(4),
        label_table=TABLE,
        patient=f"p{index}",
        source="phantom",
        attributes={"sex": "F"},
    )


def cohort(count=4, unlabelled=(), **changes):
    return FakeCohort([case(i, i not in unlabelled) for i in range(count)], **changes)


def preprocessor(grid=(12, 10, 8)):
    return Preprocessor(PreprocessSettings(grid=grid, fit="crop_or_pad"), TABLE, "MRI")


@pytest.fixture
def prepared(tmp_path):
    return PreparedCohort.build(cohort(unlabelled=(2,)), preprocessor(), tmp_path)


def test_prepared_cases_hold_what_the_preprocessor_gave(tmp_path):
    data = cohort(unlabelled=(2,))
    prepared = PreparedCohort.build(data, preprocessor(), tmp_path)
    assert prepared.names == ("case_0", "case_1", "case_2", "case_3") and len(prepared) == len(list(prepared)) == 4
    for found in prepared:
        expected = preprocessor().forward(data.cases[found.name])
        np.testing.assert_array_equal(found.image, expected.image)
        assert isinstance(found.image, np.memmap) and not found.image.flags.writeable
        assert (found.labels is None) == (expected.labels is None)
        if found.labels is not None:
            np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.geometry.to_dict() == expected.geometry.to_dict()
        assert (found.attributes, found.source, found.patient) == ({"sex": "F"}, "phantom", f"p{found.name[-1]}")
    large = 6 * 6 * 4
    assert prepared.class_counts().tolist() == [3 * (12 * 10 * 8 - large - 1), 3 * large, 3]


def test_a_cache_is_used_again_and_never_for_other_settings_or_data(tmp_path):
    first = cohort()
    PreparedCohort.build(first, preprocessor(), tmp_path)
    PreparedCohort.build(first, preprocessor(), tmp_path)
    assert set(first.reads.values()) == {1}
    assert PreparedCohort.build(first, preprocessor((6, 10, 8)), tmp_path)[0].image.shape == (6, 10, 8)
    assert PreparedCohort.build(first, preprocessor((6, 10, 8)), tmp_path, crop=False)[0].image.shape == (12, 10, 8)
    changed = cohort(version=1)
    PreparedCohort.build(changed, preprocessor(), tmp_path)
    assert set(changed.reads.values()) == {1}


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path):
    data, read = cohort(), FakeCohort.read

    def fails_at_the_third(name):
        if name == "case_2":
            raise KeyboardInterrupt
        return read(data, name)

    data.read = fails_at_the_third
    with pytest.raises(KeyboardInterrupt):
        PreparedCohort.build(data, preprocessor(), tmp_path)
    del data.read
    listener = Listener()
    prepared = PreparedCohort.build(data, preprocessor(), tmp_path, listener)
    assert data.reads == Counter(case_0=1, case_1=1, case_2=1, case_3=1)
    assert listener.started == [(4, 2)] and len(prepared) == 4


def test_labels_lost_to_the_crop_are_told(tmp_path):
    listener = Listener()
    PreparedCohort.build(cohort(), preprocessor((8, 10, 8)), tmp_path, listener)
    (message,) = listener.said
    assert "4 of 4 cases" in message and "fit=resample" in message
    silent = Listener()
    PreparedCohort.build(cohort(), preprocessor(), tmp_path, silent)
    assert not silent.said


def test_users_mistakes_are_named(tmp_path):
    with pytest.raises(InputError, match="there are no cases to prepare"):
        PreparedCohort.build(cohort(0), preprocessor(), tmp_path)
    with pytest.raises(InputError, match="Import the cohort with that label table"):
        PreparedCohort.build(cohort(label_table=HIPPOCAMPUS), preprocessor(), tmp_path)
    prepared = PreparedCohort.build(cohort(), preprocessor(), tmp_path)
    prepared.files[1].with_name("case_1.image.npy").write_bytes(b"cut short")
    with pytest.raises(RunError, match=r"case_1\.image\.npy.*will be made again"):
        prepared[1]


def test_a_prepared_cohort_goes_to_loader_processes_without_its_arrays(prepared):
    again = pickle.loads(pickle.dumps(prepared))
    np.testing.assert_array_equal(again[0].image, prepared[0].image)
    assert len(pickle.dumps(prepared)) < 20_000


def test_cohorts_with_one_label_table_can_be_joined(prepared, tmp_path):
    other = PreparedCohort.build(cohort(2, version=5), preprocessor(), tmp_path)
    joined = PreparedCohort.concat(prepared, other)
    assert joined.names == prepared.names + other.names
    assert (joined.class_counts() == prepared.class_counts() + other.class_counts()).all()
    foreign = PreparedCohort(other.files, other.facts, HIPPOCAMPUS)
    with pytest.raises(InputError, match="one label table"):
        PreparedCohort.concat(prepared, foreign)


def test_pick_walks_through_shuffled_epochs():
    picked = [pick(n // 3, n % 3, 7, 11, batch_size=3) for n in range(42)]
    epochs = [tuple(picked[i : i + 7]) for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 1
    assert picked != [pick(n // 3, n % 3, 7, 12, batch_size=3) for n in range(42)]
    assert picked == [pick(n // 6, n % 6, 7, 11, batch_size=6) for n in range(42)]  # the batch size cuts one stream


def test_batches_are_functions_of_the_update_and_ranks_share_them_out(prepared):
    batches = CaseBatches(prepared, 2, seed=3, augment=PaperAugmentation(), patch=(6, 6, 6))
    later, again = batches.batch(5), CaseBatches(prepared, 2, 3, PaperAugmentation(), (6, 6, 6)).batch(5)
    assert later["names"] == again["names"] and torch.equal(later["image"], again["image"])
    assert not torch.equal(batches.batch(6)["image"], later["image"])
    one = CaseBatches(prepared, 4, seed=3).batch(1)["names"]
    assert one == [n for rank in (0, 1) for n in CaseBatches(prepared, 2, seed=3).batch(1, rank, 2)["names"]]
    assert sorted(one) == sorted(prepared.names)


def test_a_batch_has_the_shapes_and_types_it_says(prepared):
    batch = CaseBatches(prepared, 4, seed=0, augment=GeometricJitter(JitterSettings(probability=1))).batch(0)
    assert batch["image"].shape == batch["labels"].shape == (4, 1, 12, 10, 8)
    assert (batch["image"].dtype, batch["labels"].dtype) == (torch.float32, torch.long)
    assert batch["augmentation"].shape == (4, 8)
    bare = batch["names"].index("case_2")
    assert batch["has_labels"].tolist() == [i != bare for i in range(4)]
    assert not batch["labels"][bare].any()
    assert "augmentation" not in CaseBatches(prepared, 2, seed=0).batch(0)


def test_patches_are_cut_alike_from_image_and_labels(prepared):
    whole = prepared[0]
    for seed in range(10):
        item = draw(whole, seed, patch=(5, 4, 3))
        image, labels = item["image"][0].numpy(), item["labels"][0].numpy()
        starts = np.argwhere(np.asarray(whole.image) == image[0, 0, 0]).tolist()
        windows = [tuple(slice(s, s + n) for s, n in zip(start, image.shape)) for start in starts]
        (window,) = [w for w in windows if np.array_equal(whole.image[w], image)]
        np.testing.assert_array_equal(whole.labels[window], labels)


def test_each_structure_is_sought_as_often_however_small(prepared):
    whole = prepared[0]

    def tiny(fraction):
        items = (draw(whole, seed, patch=(2, 2, 2), foreground_fraction=fraction) for seed in range(400))
        return sum(bool((item["labels"] == 2).any()) for item in items) / 400

    assert abs(tiny(1.0) - 0.5) < 0.1  # one voxel of 960, but one structure of two
    assert tiny(0.0) < 0.05
    for seed in range(50):
        assert draw(whole, seed, patch=(2, 2, 2), foreground_fraction=1.0)["labels"].any()


def test_a_patch_of_an_unlabelled_case_lies_anywhere(prepared):
    item = draw(prepared[2], 0, patch=(2, 2, 2), foreground_fraction=1.0)
    assert item["image"].shape == (1, 2, 2, 2) and not item["has_labels"]


def test_patches_that_do_not_fit_and_unequal_shapes_are_refused(prepared, tmp_path):
    with pytest.raises(InputError, match=r"case case_0: the patch \(13, 4, 4\) is larger"):
        draw(prepared[0], 0, patch=(13, 4, 4))
    with pytest.raises(RunError, match="cannot share a batch"):
        stack([draw(prepared[0], 0), draw(prepared[1], 0, patch=(4, 4, 4))])


def test_the_last_batches_are_whole_grids_where_that_is_asked_for(prepared):
    batches = CaseBatches(prepared, 2, seed=3, patch=(6, 6, 6), whole_from=4)
    patches, whole = batches.batch(3), batches.batch(4)
    assert patches["image"].shape[2:] == (6, 6, 6) and whole["image"].shape[2:] == prepared[0].image.shape
    assert torch.equal(patches["image"], CaseBatches(prepared, 2, seed=3, patch=(6, 6, 6)).batch(3)["image"])
