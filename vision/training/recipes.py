"""Recipes: YAML files of options."""

from __future__ import annotations

import argparse
from dataclasses import fields
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vision.training.command import UserError, describe_error, suggest_name
from vision.training.configs import TRAINING_PARTS

RECIPES = Path(__file__).parents[1] / "recipes"

# Lines of a recipe that are not options.
BASE, MODELS = "base", "models"


class Recipe(NamedTuple):
    """A recipe that was read.

    Attributes:
        file: of the recipe.
        values: its options, those of its base included.
        models: pattern of the names of the models that it is for; ``*`` if it is for all.
    """

    file: Path
    values: dict[str, Any]
    models: str = "*"


def read_recipe(name: str, parser: argparse.ArgumentParser) -> Recipe:
    """Reads a recipe, and first the one that its line ``base:`` names, if it has one.

    Args:
        name: of a recipe in vision/recipes, or path of a .yaml file.
        parser: of ``vision.train``, which checks the values.

    Raises:
        UserError: if there is no such recipe, or a line or value in it is wrong.
    """
    return _read_recipe(name, parser, read_before=())


def _read_recipe(
    name: str, parser: argparse.ArgumentParser, read_before: tuple[Path, ...]
) -> Recipe:
    file = find_recipe(name)
    if file in read_before:
        raise UserError(f"{file} is its own base")
    content = _read_yaml(file)
    base, models = content.pop(BASE, None), str(content.pop(MODELS, "*"))
    values = {}
    if base is not None:
        values = dict(_read_recipe(str(base), parser, (*read_before, file)).values)
    for key, value in _check_options(file, content, parser).items():
        values.pop(key, None)
        if value is not None:  # "option: null" returns to the default
            values[key] = value
    return Recipe(file, values, models)


def find_recipe(name: str) -> Path:
    """Returns the file of a recipe that is given by name or by path.

    Raises:
        UserError: if there is none.
    """
    file = Path(name)
    if file.suffix not in (".yaml", ".yml"):
        file = RECIPES / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise UserError(f"there is no recipe {name!r}: name a .yaml file, or one of {known}")
    return file


def _read_yaml(file: Path) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {describe_error(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold lines of 'option: value'")
    return content


def _check_options(
    file: Path, content: dict[Any, Any], parser: argparse.ArgumentParser
) -> dict[str, Any]:
    """Passes each line through the parser of the command line, which checks its value."""
    known = {field.name for part in TRAINING_PARTS for field in fields(part)} - {"data"}
    options = {}
    for key, value in content.items():
        if key not in known:
            suggestion = suggest_name(str(key), known)
            raise UserError(f"{file}: there is no option {key!r}{suggestion}")
        try:
            parsed = parser.parse_args(["DATA", *_to_arguments(key, value)])
        except UserError as error:
            raise UserError(f"{file}: wrong value for {key!r}: {error}") from None
        options[key] = getattr(parsed, key, None)
    return options


def _to_arguments(key: str, value: object) -> list[str]:
    """Returns a line of a recipe as arguments of the command line."""
    flag = "--" + key.replace("_", "-")
    match value:
        case None:
            return []
        case bool():
            return [flag if value else flag.replace("--", "--no-", 1)]
        case list():
            return [flag, *map(str, value)]
        case dict():
            return [flag, *(f"{name}={item!r}" for name, item in value.items())]
    return [f"{flag}={value}"]


def describe_mismatch(recipe: Recipe, model: str | None) -> str:
    """Returns a sentence if the recipe is for other models than ``model``, else an empty string.

    It is a note and not an error: to train another model by the same recipe is how models are
    compared.
    """
    if model is None or fnmatch(model, recipe.models):
        return ""
    return (
        f"note: the recipe {recipe.file.stem} is for {recipe.models}: its numbers may not suit "
        f"{model}"
    )
