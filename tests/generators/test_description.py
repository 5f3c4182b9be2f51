"""What a saved generator says of itself is held against what lies there, in the words it was written with."""

import pytest
from torch import nn

from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.generators.description import Description
from voxpair.generators.fitting import name_weights

TABLE = LabelTable.from_mapping("two", {"a": 1, "b": 2})


def test_settings_count_as_they_were_written_whatever_later_versions_add(tmp_path):
    network, settings = nn.Linear(2, 2), {"a_setting_of_that_day": 3}
    digest = name_weights([{"fact": 1.5}, settings], [network])
    Description("some", digest, "CT", TABLE, settings, {"fact": 1.5}).write(tmp_path)
    saved = Description.read(tmp_path, "some")
    assert saved.check([network], tmp_path) == digest
    for changed in (
        Description("some", digest, "CT", TABLE, settings | {"a_later_one": None}, {"fact": 1.5}),
        Description("some", digest, "CT", TABLE, settings, {"fact": 1.6}),
    ):
        with pytest.raises(InputError, match="are not those that"):
            changed.check([network], tmp_path)
    with pytest.raises(InputError, match="are not those"):
        saved.check([nn.Linear(2, 2)], tmp_path)
