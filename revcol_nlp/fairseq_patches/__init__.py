"""Every change to fairseq that the plugin makes; `table.PATCHES` lists them.

``REVCOL_FAIRSEQ_PATCHES`` chooses among them: ``off`` for none, ``list`` to print the table and
exit, or names separated by commas for these alone. README.md beside this file says what each patch
does, and how to add one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from . import hydra
from .replacing import MissingTargetError, Patch, list_installed
from .table import PATCHES

__all__ = [
    "PATCHES",
    "MissingTargetError",
    "Patch",
    "choose_patches",
    "describe_patches",
    "install",
    "list_installed",
    "remove",
]

VARIABLE = "REVCOL_FAIRSEQ_PATCHES"


def install(
    presets: Mapping[str, Mapping[str, Any]], begin_with_decoder: Callable[..., Any]
) -> None:
    """Install the patches that ``REVCOL_FAIRSEQ_PATCHES`` chooses; a second call changes nothing.

    Args:
        presets: the options of each architecture that differ from the defaults, for hydra.presets.
        begin_with_decoder: the replacement of models.init_decoder_from.

    Raises:
        ValueError: if the variable names a patch that is not in the table.
        MissingTargetError: if the installed fairseq does not have what a patch replaces.
        SystemExit: with status 0, if the variable asks for the table.
    """
    choice = os.environ.get(VARIABLE)
    if choice == "list":
        print(describe_patches())
        sys.exit(0)
    given = {
        "hydra.presets": functools.partial(hydra.fill_preset, presets),
        "models.init_decoder_from": begin_with_decoder,
    }
    try:
        for patch in choose_patches(choice):
            if patch.name in given:
                targets = dict.fromkeys(patch.replaces, given[patch.name])
                patch = dataclasses.replace(patch, replaces=targets)
            patch.install()
    except MissingTargetError:
        remove()
        raise


def remove() -> None:
    """Remove all patches: fairseq is as if the plugin had not been loaded."""
    for patch in PATCHES:
        patch.remove()


def choose_patches(choice: str | None) -> list[Patch]:
    """Choose patches as ``REVCOL_FAIRSEQ_PATCHES`` does.

    Args:
        choice: None for all, ``off`` for none, or names separated by commas.

    Returns:
        the patches in the order of the table; features of the model are always among them.

    Raises:
        ValueError: if there is no patch of a name, with the names that are like it.
    """
    names = [patch.name for patch in PATCHES]
    chosen = names if choice is None else [n.strip() for n in choice.split(",") if n.strip()]
    if chosen == ["off"]:
        chosen = []
    for name in chosen:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
            raise ValueError(
                f"{VARIABLE} names {name!r}, which is not a patch: did you mean "
                f"{', '.join(near)}? ({VARIABLE}=list prints all patches, off installs none)"
            )
    return [patch for patch in PATCHES if patch.name in chosen or patch.is_feature]


def describe_patches() -> str:
    """Describe each patch: its name, what it replaces, and what goes wrong without it."""
    lines = []
    for patch in PATCHES:
        lines.append(patch.name)
        lines += [f"    replaces {target}" for target in patch.replaces]
        lines.append(f"    without it: {patch.without}")
    return "\n".join(lines)
