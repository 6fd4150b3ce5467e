"""Rooms of the code import each other in one direction only, as the table says."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]


class Room(NamedTuple):
    """What the files of a room may import, besides the standard library and the room itself.

    Attributes:
        imports: rooms of this project.
        packages: the only packages of others; None for any.
        never: packages of others that it must not import.
    """

    imports: tuple[str, ...]
    packages: tuple[str, ...] | None = None
    never: tuple[str, ...] = ()


PLUGIN = ("revcol_nlp.columns", "revcol_nlp.checkpoints", "revcol_nlp.criterions")
PLUGIN += ("revcol_nlp.fairseq_patches", "revcol_nlp.models")
VISION = ("vision", "vision.models", "vision.training")
NO_IMAGES = ("timm", "torchvision")

# A file belongs to the room with the longest name that fits. Only tests import scripts and data;
# nothing imports tests.
ROOMS = {
    "revcol_nlp": Room(imports=("revcol_nlp.columns",), packages=()),
    "revcol_nlp.columns": Room(imports=(), packages=("torch",)),
    "revcol_nlp.checkpoints": Room(imports=(), packages=("torch", "numpy")),
    "revcol_nlp.criterions": Room(imports=(), never=NO_IMAGES),
    "revcol_nlp.fairseq_patches": Room(imports=("revcol_nlp.checkpoints",), never=NO_IMAGES),
    "revcol_nlp.models": Room(
        imports=(
            "revcol_nlp.columns",
            "revcol_nlp.checkpoints",
            "revcol_nlp.criterions",
            "revcol_nlp.fairseq_patches",
        ),
        never=NO_IMAGES,
    ),
    "vision": Room(imports=("vision.models", "vision.training"), never=("fairseq",)),
    "vision.models": Room(imports=("revcol_nlp.columns",), never=("fairseq",)),
    "vision.training": Room(
        imports=("revcol_nlp.checkpoints", "vision.models"), never=("fairseq",)
    ),
    "data": Room(imports=()),
    "scripts": Room(imports=("revcol_nlp", *PLUGIN, *VISION)),
    "tests": Room(imports=("revcol_nlp", *PLUGIN, *VISION, "scripts", "data")),
}
OURS = {name.partition(".")[0] for name in ROOMS}
FILES = sorted(path for top in OURS for path in (ROOT / top).rglob("*.py"))


def find_room(module: str) -> str:
    """Return the room that ``module``, a dotted name, belongs to."""
    fitting = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(fitting, key=len)


def is_module(name: str) -> bool:
    """Tell whether the dotted ``name`` is a file or folder of this project."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def find_imports(source: str, package: str) -> Iterator[str]:
    """Yield the dotted names of the modules that ``source``, a file of ``package``, imports.

    Relative imports are resolved. Imports inside functions, and ``import_module`` with a constant
    name, count as well.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if base.partition(".")[0] in OURS and is_module(name) else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            if function in ("import_module", "__import__"):
                yield str(node.args[0].value)


def find_wrong_imports(source: str, module: str, package: str) -> list[str]:
    """Return a sentence for each import in ``source`` that the table does not allow."""
    name = find_room(module)
    room = ROOMS[name]
    wrong = []
    for imported in sorted(set(find_imports(source, package))):
        top = imported.partition(".")[0]
        if top in OURS:
            is_allowed = find_room(imported) in (name, *room.imports)
        else:
            is_standard = top in sys.stdlib_module_names
            is_allowed = is_standard or room.packages is None or top in room.packages
            is_allowed = is_allowed and top not in room.never
        if not is_allowed:
            wrong.append(f"{module}, of the room {name}, must not import {imported}")
    return wrong


def test_every_import_is_an_arrow_of_the_table() -> None:
    wrong = []
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = ".".join(parts[:-1])
        module = package if parts[-1] == "__init__" else ".".join(parts)
        wrong += find_wrong_imports(path.read_text(encoding="utf-8"), module, package)
    assert not wrong, "\n".join(wrong)


def test_every_room_of_the_table_has_files() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES]
    assert {find_room(module) for module in modules} == set(ROOMS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("revcol_nlp.columns.stack", "import fairseq.tasks"),
        ("revcol_nlp.columns.stack", "from ..checkpoints import contents"),
        ("revcol_nlp.columns.stack", "def f():\n    from timm.layers import DropPath"),
        ("revcol_nlp.checkpoints.contents", "import omegaconf"),
        ("revcol_nlp.fairseq_patches.fixes", "from ..models.config import PRESETS"),
        ("revcol_nlp.fairseq_patches.fixes", "from .. import models"),
        ("revcol_nlp.models.encoder", "import vision"),
        ("revcol_nlp.models.encoder", "from scripts.lib import models"),
        (
            "vision.models.revcol_vit",
            "from importlib import import_module as i\ni('x')\nimport data",
        ),
        ("vision.training.data", "import importlib\nimportlib.import_module('fairseq.data')"),
        ("vision.training.data", "from vision import train"),
        ("scripts.lib.models", "from tests.helpers import exact"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str) -> None:
    (sentence,) = find_wrong_imports(source, module, package=module.rpartition(".")[0])
    assert sentence.startswith(f"{module}, of the room {find_room(module)}, must not import ")
