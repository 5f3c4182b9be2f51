"""``generator.json``: what a saved generator says of itself, beside its weights.

Whoever loads a generator needs nothing else: settings, label table and facts of the training set travel with the
weights. The file is written last and carries their digest, so a folder is whole or is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from voxpair.core.errors import InputError
from voxpair.core.labels import LabelTable
from voxpair.core.run import read_json, write_json
from voxpair.generators.fitting import name_weights

_FILE = "generator.json"


@dataclass(frozen=True)
class Description:
    """A fitted generator without its weights.

    Args:
        generator: its kind, such as "joint_ldm".
        digest: SHA-256 of weights, settings and facts.
        modality: "CT" or "MRI".
        settings, facts: as JSON holds them.
    """

    generator: str
    digest: str
    modality: str
    label_table: LabelTable
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        write_json(folder / _FILE, vars(self) | {"label_table": self.label_table.to_json()})

    @classmethod
    def read(cls, folder: Path, generator: str) -> Description:
        """Read what :meth:`write` wrote.

        Raises:
            InputError: it describes a generator of another kind, or lacks something.
        """
        content = read_json(folder / _FILE)
        if content.get("generator") != generator:
            raise InputError(f"{folder} holds a generator of kind {content.get('generator')!r}, not {generator!r}")
        try:
            return cls(**content | {"label_table": LabelTable.from_json(content["label_table"])})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{folder / _FILE} was written by another version of voxpair, or changed: {error}; fit again"
            ) from None

    def check(self, networks: Iterable[nn.Module], folder: Path) -> str:
        """Return the digest; raise InputError if weights, settings or facts are not those it was written with.

        Settings count as they are written here: a later version may know more of them.
        """
        if name_weights([self.facts, self.settings], networks) != self.digest:
            raise InputError(f"the weights in {folder} are not those that {_FILE} was written with")
        return self.digest
