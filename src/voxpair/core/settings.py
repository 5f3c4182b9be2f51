"""Settings: typed, strict, frozen. One tree, defined once; an unknown key is an error that lists the known ones.

Each component declares its own ``Settings`` class beside itself; ``presets.py`` puts them together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from voxpair.core.errors import InputError


class Settings(BaseModel):
    """Base of every settings class: unknown keys and numbers that are not finite refused, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def override(settings: S, assignments: Iterable[str]) -> S:
    """Return ``settings`` with ``a.b=value`` assignments applied; values are read as YAML.

    >>> class Inner(Settings):
    ...     rate: float = 1.0
    >>> class Outer(Settings):
    ...     inner: Inner = Inner()
    >>> override(Outer(), ["inner.rate=2e-3"]).inner.rate
    0.002
    """
    changes: dict[str, Any] = {}
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        if not sign:
            raise InputError(f"--set {assignment!r}: expected key=value, for example diffusion.loop.updates=2000")
        node = changes
        *parents, leaf = path.strip().split(".")
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise InputError(f"--set {assignment!r}: {key!r} was already given as a plain value")
        node[leaf] = _parse(text)
    return merge(settings, changes, source="--set")


def layered(*parts: dict[str, Any]) -> dict[str, Any]:
    """Lay nested dictionaries over each other, later ones on top.

    >>> layered({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    merged: dict[str, Any] = {}
    for layer in parts:
        for key, value in layer.items():
            below = merged.get(key)
            merged[key] = layered(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def merge(settings: S, changes: dict[str, Any], *, source: str) -> S:
    """Return ``settings`` with a nested dictionary of ``changes`` applied and everything validated again."""
    _check_keys(type(settings), changes, source, prefix="")
    try:
        return type(settings).model_validate(_deep_merge(settings.model_dump(), changes))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = f"setting {key!r} = {first.get('input')!r}" if key else "these settings contradict each other"
        raise InputError(f"{source}: {what}: {first['msg']}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a settings file; the top level must be a mapping."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the settings file {path}: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"the settings file {path} must hold 'key: value' lines, got {type(content).__name__}")
    return content


def digest(value: Any) -> str:
    """Return 16 hex digits that change when ``value`` (settings or anything JSON can hold) changes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _parse(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set: cannot read the value {text!r}: {error}") from None
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 (no dot) as text
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_keys(model: type[BaseModel], changes: dict[str, Any], source: str, prefix: str) -> None:
    for key, value in changes.items():
        if key not in model.model_fields:
            known = ", ".join(prefix + name for name in model.model_fields)
            raise InputError(f"{source}: unknown setting {prefix + key!r}; known here: {known}")
        annotation = model.model_fields[key].annotation
        if isinstance(value, dict) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
            _check_keys(annotation, value, source, f"{prefix}{key}.")


def _deep_merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _deep_merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
