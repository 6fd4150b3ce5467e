"""fairseq's ``--user-dir`` finds the plugin in whatever order packages are imported.

fairseq imports a --user-dir in ``fairseq.utils.import_user_module``:

1. Where no package of the folder's name is imported yet, fairseq imports it and every file in its
   ``models`` folder. That loads the plugin.
2. Where one is imported, fairseq only asks whether the folder is in the package's ``__path__``, and
   takes the plugin for loaded. But ``import vision`` or ``from revcol_nlp import RevCol`` import
   the package without the plugin, since both work without fairseq.

In the second case fairseq's question is the only call that reaches this package, so the package
answers it with a ``__path__`` that loads the plugin. Nobody else asks: Python's import system reads
the entries one by one.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable


class UserDirPath(list[str]):
    """A package's ``__path__``, which loads the package's ``models`` where fairseq looks into it.

    Args:
        package: the name of the package.
        folders: the entries.
    """

    def __init__(self, package: str, folders: Iterable[str]):
        super().__init__(folders)
        self.package = package

    def __contains__(self, folder: object) -> bool:
        # fairseq compares strings; a symbolic link is the same folder by another name.
        found = folder in list(self) or (
            isinstance(folder, str)
            and any(os.path.realpath(folder) == os.path.realpath(entry) for entry in self)
        )
        if found and sys._getframe(1).f_globals.get("__name__") == "fairseq.utils":
            importlib.import_module(f"{self.package}.models")
        return found


def share_modules(alias: str, folder: str) -> None:
    """Make the modules of a package those of ``revcol_nlp``, where it is the same folder.

    ``--user-dir link``, a symbolic link with another name, imports the package as ``link``. A
    second copy of the modules would register the models and install the patches a second time.

    Args:
        alias: the name that the package was imported as.
        folder: where it was imported from.
    """
    folder = os.path.realpath(folder)
    parent, name = os.path.split(folder)
    if name == alias:
        return  # the package itself has another name
    if name not in sys.modules:
        sys.path.insert(0, parent)
    package = importlib.import_module(name)
    if os.path.realpath(package.__path__[0]) != folder:
        return  # another package of that name
    importlib.import_module(f"{name}.models")
    for module in [name, *(known for known in sys.modules if known.startswith(f"{name}."))]:
        sys.modules[alias + module.removeprefix(name)] = sys.modules[module]
