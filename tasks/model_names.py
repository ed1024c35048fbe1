"""Finding a configuration by its name, the same for every task. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Protocol, TypeVar


class NamedConfig(Protocol):
    """A configuration that may have released weights."""

    @property
    def checkpoint(self) -> str | None:
        """Name of the released weights; None: there are none."""


Config = TypeVar("Config", bound=NamedConfig)


def find_config(configs: Mapping[str, Config], name: str, kind: str, lister: str) -> Config:
    """The configuration of this name, or that of the released file of this name.

    Args:
        configs: by their names.
        name: that is looked for.
        kind: what the configurations are of, for the error.
        lister: the function that lists the names, for the error.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    if name in configs:
        return configs[name]
    for config in configs.values():
        if name == config.checkpoint:
            return config
    nearest = difflib.get_close_matches(name, configs, n=3) or list(configs)[:3]
    raise ValueError(f"no {kind} is called {name!r}; nearest: {', '.join(nearest)}; {lister}() lists all")


def list_names(configs: Mapping[str, Config], pattern: str, *, pretrained: bool) -> list[str]:
    """The names that fit a shell wildcard; with `pretrained` only those with released weights."""
    return [
        name for name, config in configs.items() if fnmatchcase(name, pattern) and (config.checkpoint or not pretrained)
    ]
