"""Domain randomisation: what the contract suite does not ask of it."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from voxpair.cli import app
from voxpair.cohorts.augment import SpatialIntensitySettings
from voxpair.cohorts.cohort import Cohort, CohortWriter
from voxpair.cohorts.preprocess import PreprocessSettings
from voxpair.core.case import Case
from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import RunFolder, Silent
from voxpair.core.settings import override
from voxpair.generators.domain_randomisation.generator import DomainRandomisation, DomainRandomisationSettings
from voxpair.generators.domain_randomisation.label_maps import divide_by_brightness
from voxpair.presets import PRESETS, part

TABLE = LabelTable.from_mapping("boxes", {"background": 0, "wall": 2, "blood": 5, "rare": 9})
AIR_HU, FAT_HU, WALL_HU, BLOOD_HU, RARE_HU = -800.0, -100.0, 300.0, 900.0, 1500.0
CONTRAST_HU = (-60.0, 0.0, 20.0, 120.0)
"""By how much blood and wall are brighter in each training case, together."""
NOISE_HU = 30.0
STILL = SpatialIntensitySettings(
    spatial=0, gamma_probability=0, brightness_probability=0, noise_probability=0, blur_probability=0,
    shading_probability=0,
)  # fmt: skip
PLAIN = DomainRandomisationSettings(
    preprocess=PreprocessSettings(grid=(16, 14, 12), fit="crop_or_pad"),
    background_classes=2,
    background_smoothing_voxels=0,
    blur_voxels=(0, 0),
    texture_voxels=0,
    augmentation=STILL,
)
"""Nothing but the painting."""
FLAT = PLAIN.model_copy(update={"intensities": "random", "spread_range": (0.0, 0.0)})


def box_case(index, labelled=True):
    labels = np.zeros((16, 14, 12), np.uint8)
    labels[3:12, 3 : 9 + index % 3, 2:10] = 2
    labels[5:10, 4:8, 3:9] = 5
    image = np.select([labels == 5, labels == 2], [BLOOD_HU, WALL_HU], AIR_HU) + CONTRAST_HU[index] * (labels > 0)
    image[labels == 0] = np.where(np.indices(labels.shape)[0] < 2, FAT_HU, AIR_HU)[labels == 0]
    if index == 0:
        labels[13, 2:8, 2:8], image[13, 2:8, 2:8] = 9, RARE_HU
    image = (image + np.random.default_rng(index).normal(0, NOISE_HU, labels.shape)).astype(np.float32)
    patient = f"p{index}"
    return Case(f"case_{index}", image, labels if labelled else None, np.diag((2, 2, 3, 1)), TABLE, patient=patient)


def write_cohort(folder, cases):
    writer = CohortWriter(folder, TABLE, "CT")
    for case in cases:
        writer.add(case, split="train")
    return writer.finish()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("boxes") / "cohort", [box_case(i) for i in range(4)])


@pytest.fixture
def fit(cohort, tmp_path):
    def fitted(settings, on=cohort):
        model = DomainRandomisation(settings, TABLE, "CT")
        model.fit(on, RunFolder(tmp_path / "run"))
        return model

    return fitted


def levels(case):
    """Mean of wall and blood, and of the rest below and above what lies between air and fat."""
    rest = case.image[case.labels == 0]
    of_classes = [case.image[case.labels == value] for value in (2, 5)] + [rest[rest < -450], rest[rest >= -450]]
    return [float(values.mean()) for values in of_classes]


def test_unmoved_and_flat_it_is_a_stored_map_in_single_greys(fit):
    """The label map is a training patient's, voxel by voxel, as the documentation warns."""
    for case in fit(FLAT).sample(6, seed=0):
        stored = box_case(case.provenance["label_map"])
        assert np.array_equal(case.labels, stored.labels)
        air = (stored.labels == 0) & (stored.image < -450)
        parts = [air, (stored.labels == 0) & ~air, *(stored.labels == v for v in TABLE.values if v in stored.labels)]
        greys = [np.unique(case.image[part]) for part in parts]
        assert all(len(grey) == 1 for grey in greys) and len(np.unique(case.image)) == len(parts)
        assert case.image.min() >= -1000 + 0.1 * 3000 - 1 and case.image.max() <= -1000 + 0.9 * 3000 + 1


def test_fitted_intensities_have_the_training_cases_mean_deviation_and_correlation(fit):
    real = np.array([levels(box_case(i)) for i in range(4)])
    made = np.array([levels(case) for case in fit(PLAIN).sample(200, seed=1)])
    deviation = real.std(0, ddof=1)
    assert np.all(abs(made.mean(0) - real.mean(0)) < 4 * deviation / np.sqrt(200) + 2)  # 2: median of noise, of a part
    assert made.std(0)[:2] == pytest.approx(deviation[:2], rel=0.2)
    assert np.corrcoef(made[:, 0], made[:, 1])[0, 1] > 0.98  # contrast agent brightens both, in every training case


def test_fitted_spread_is_that_within_the_class(fit):
    spreads = [case.image[case.labels == 5].std() for case in fit(PLAIN).sample(40, seed=2)]
    assert np.mean(spreads) == pytest.approx(NOISE_HU, rel=0.15)


def test_a_wire_of_metal_is_not_taken_for_texture(fit, tmp_path):
    wired = box_case(0)
    wired.image[6, 5, 3:9] = 2000
    assert wired.image[wired.labels == 5].std() > 200
    (made,) = fit(PLAIN, write_cohort(tmp_path / "wired", [wired])).sample(1, seed=2)
    assert made.image[made.labels == 5].std() < 1.6 * NOISE_HU


def test_a_structure_that_few_cases_have_is_as_bright_as_there(fit):
    """Cases without it count neither as black nor as certain."""
    painted = [case.image[case.labels == 9] for case in fit(PLAIN).sample(20, seed=3)]
    means = [values.mean() for values in painted if values.size]
    assert means and means == pytest.approx([RARE_HU] * len(means), abs=15)


def test_random_intensities_turn_the_contrast_round(fit):
    flat = fit(FLAT)
    made = np.array([[case.image[case.labels == v][0] for v in (2, 5)] for case in flat.sample(60, seed=4)])
    brighter = made[:, 0] > made[:, 1]
    assert 10 < brighter.sum() < 50  # a fair coin fails this once in ten million
    assert abs(np.corrcoef(made.T)[0, 1]) < 0.5
    assert made.mean() == pytest.approx(-1000 + 0.5 * 3000, abs=200)


def test_labels_and_image_are_deformed_alike(fit):
    moving = FLAT.model_copy(update={"augmentation": DomainRandomisationSettings().augmentation})
    moving = override(moving, ["augmentation.noise_probability=0", "augmentation.shading_probability=0"])
    maps = [box_case(i).labels for i in range(4)]
    for case in fit(moving).sample(5, seed=5):
        greys = [set(np.unique(case.image[case.labels == value])) for value in (0, *TABLE.values)]
        assert [len(grey) for grey in greys[1:3]] == [1, 1] and len(greys[0]) <= 2
        assert all(a.isdisjoint(b) for a, b in itertools.combinations(greys, 2))
        assert not any(np.array_equal(case.labels, one) for one in maps)


def test_every_change_of_intensity_reaches_the_image_and_leaves_the_labels(fit):
    model = fit(PLAIN)
    (before,) = model.sample(1, seed=6)
    for change in ("gamma", "brightness", "noise", "blur", "shading"):
        model.settings = override(PLAIN, [f"augmentation.{change}_probability=1"])
        (after,) = model.sample(1, seed=6)
        assert np.array_equal(before.labels, after.labels) and not np.array_equal(before.image, after.image), change
    model.settings = override(PLAIN, ["blur_voxels=[1, 1]"])
    (blurred,) = model.sample(1, seed=6)
    assert np.array_equal(before.labels, blurred.labels)
    assert np.abs(np.diff(blurred.image, axis=0)).mean() < 0.6 * np.abs(np.diff(before.image, axis=0)).mean()


def test_a_texture_is_correlated_over_the_distance_asked_for(fit):
    """A Gaussian of sigma s makes neighbours correlate by exp(-1 / 4 s^2)."""
    found = []
    for case in fit(override(PLAIN, ["texture_voxels=1.5"])).sample(30, seed=7):
        blood = case.image[5:10, 4:8, 3:9]
        rest = blood - case.image[case.labels == 5].mean()
        found.append((rest[1:] * rest[:-1]).mean() / (rest**2).mean())
    assert np.mean(found) == pytest.approx(np.exp(-1 / 9), abs=0.15)


@dataclass
class Said(Silent):
    lines: list[str]

    def say(self, message):
        self.lines.append(message)


def test_training_cases_without_labels_are_left_out_aloud(tmp_path):
    mixed = write_cohort(tmp_path / "mixed", [box_case(0), box_case(1, labelled=False)])
    said = Said([])
    model = DomainRandomisation(PLAIN, TABLE, "CT")
    model.fit(mixed, RunFolder(tmp_path / "run", progress=said))
    assert "1 of 2 training cases have no labels and are left out: case_1." in said.lines
    assert {case.provenance["label_map"] for case in model.sample(5, seed=0)} == {0}
    assert model.training_patients == ["p0", "p1"]  # p1 tells the voxel size


def test_a_cohort_without_a_labelled_voxel_is_refused(tmp_path):
    bare = box_case(2)
    bare.labels[:] = 0
    for name, case in (("unlabelled", box_case(1, labelled=False)), ("bare", bare)):
        with pytest.raises(InputError, match="none of the 1 training cases has a labelled voxel"):
            DomainRandomisation(PLAIN, TABLE, "CT").fit(
                write_cohort(tmp_path / name, [case]), RunFolder(tmp_path / f"run_{name}")
            )


def test_other_label_maps_under_the_same_name_are_noticed(fit, tmp_path):
    fit(PLAIN).save(tmp_path / "model")
    file = tmp_path / "model" / "label_maps.safetensors"
    arrays = {key: value.copy() for key, value in load_file(file).items()}
    arrays["maps"][0, 0, 0, 0] += 1
    save_file(arrays, file)
    with pytest.raises(InputError, match=r"the weights in .* are not those"):
        DomainRandomisation.load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("classes", [1, 2, 3, 4])
def test_the_division_has_the_least_variance_of_all(classes):
    """Against every way to cut the sorted values."""
    values = np.random.default_rng(classes).choice(np.linspace(0, 1, 13), 60)

    def variance(parts):
        return sum(((values[parts == k] - values[parts == k].mean()) ** 2).sum() for k in np.unique(parts))

    found = divide_by_brightness(values, classes)
    cuts = itertools.combinations(np.unique(values)[1:], classes - 1)
    best = min(variance(np.digitize(values, cut)) for cut in cuts)
    assert len(np.unique(found)) == classes and variance(found) == pytest.approx(best, rel=0.02)  # bins of 1 / 64
    assert np.all(np.diff(found[np.argsort(values)].astype(int)) >= 0)


@pytest.mark.parametrize(("values", "classes"), [([], 0), ([0.4] * 5, 1), ([0.2, 0.2, 0.9], 2)])
def test_fewer_greys_than_classes_are_no_trouble(values, classes):
    assert len(np.unique(divide_by_brightness(np.array(values), 5))) == classes


def test_a_label_table_too_long_for_a_byte_is_refused(cohort, tmp_path):
    long = LabelTable.from_mapping("long", {f"s{value}": value for value in range(1, 256)})
    writer = CohortWriter(tmp_path / "cohort", long, "CT")
    case = box_case(0)
    writer.add(Case("a", case.image, case.labels, case.affine, long, patient="a"), split="train")
    with pytest.raises(InputError, match="257 classes would be painted"):
        DomainRandomisation(PLAIN, long, "CT").fit(writer.finish(), RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("level_range=[0.9, 0.1]", "level_range must be"),
        ("blur_voxels=[2, 1]", "blur_voxels must be"),
        ("spread_range=[0, 2]", "less than or equal to 1"),
        ("intensities=guessed", "'fitted' or 'random'"),
        ("background_classes=0", "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(assignment, text):
    with pytest.raises((InputError, ValidationError), match=text):
        override(PLAIN, [assignment])


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "auto"])
def test_every_preset_has_settings_for_it(name):
    settings = part(name, "generator", generator="domain_randomisation")
    assert isinstance(settings, DomainRandomisationSettings)
    assert settings.preprocess == part(name, "generator").preprocess
    assert (settings.intensities == "random") is name.endswith("paper")


def test_the_command_line_fits_and_samples_it(tmp_path):
    def voxpair(*words):
        result = CliRunner().invoke(app, [*map(str, words), "--quiet"])
        assert result.exit_code == 0, result.output

    phantom, run, made = tmp_path / "phantom", tmp_path / "run", tmp_path / "made"
    voxpair("phantom", "-n", 4, "-o", phantom, "--preset", "unit", "--workers", 1)
    voxpair("split", phantom, "--train", 3, "--val", 1)
    voxpair("fit", phantom, "-o", run, "--generator", "domain_randomisation", "--preset", "unit", "--device", "cpu")
    voxpair("sample", run, "-o", made, "-n", 3, "--device", "cpu")
    pairs = Cohort.open(made)
    assert len(pairs) == 3 and pairs.label_table.name == "cardiac8"
    assert all(pairs.read(name).labels.any() for name in pairs.names)
