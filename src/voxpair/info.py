"""What there is to choose from, for people and machines; imports nothing that computes."""

from __future__ import annotations

from voxpair.arms import ARMS
from voxpair.cohorts.layouts import LAYOUTS
from voxpair.core.labels import LABEL_TABLES
from voxpair.core.run import versions
from voxpair.generators import GENERATORS
from voxpair.networks import NETWORKS
from voxpair.presets import PRESETS


def describe() -> dict[str, dict[str, object]]:
    """Return presets, generators, networks, arms of a study, label tables, layouts and versions, each by name."""
    return {
        "presets": {name: _first_line(function) for name, function in PRESETS.items()},
        "generators": dict(GENERATORS),
        "networks": dict(NETWORKS),
        "arms": {name: arm.about for name, arm in ARMS.items()},
        "label_tables": {name: table.to_mapping() for name, table in LABEL_TABLES.items()},
        "layouts": {name: _first_line(layout) for name, layout in LAYOUTS.items()},
        "versions": dict(versions()),
    }


def as_text(facts: dict[str, dict[str, object]]) -> str:
    """Return :func:`describe` for people."""
    lines = []
    for topic, entries in facts.items():
        lines += ["", topic.replace("_", " ")]
        for name, value in entries.items():
            lines.append(f"  {name:<24}{value if isinstance(value, str) else ', '.join(map(str, value))}")
    return "\n".join(lines[1:])


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]
