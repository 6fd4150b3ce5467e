"""The command lines: parsers, defaults, recipes, and refusal of options that have no effect."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from timm.optim import OptimInfo, get_optimizer_info, list_optimizers

from vision.training.command import UserError, suggest_name
from vision.training.config_fields import select_config
from vision.training.configs import (
    TRAINING_PARTS,
    VALIDATION_PARTS,
    ComputeConfig,
    TrainingConfig,
    ValidationConfig,
)
from vision.training.data_configs import DataConfig
from vision.training.recipes import describe_mismatch, read_recipe

Options = dict[str, Any]

# Options that have an effect only if the others allow it: a condition, and the end of the sentence
# "--option has no effect ...". `ALWAYS_EFFECTIVE` names all other options.
NEEDS: dict[str, tuple[Callable[[Options], bool], str]] = {
    "dataset_download": (
        lambda options: options["dataset"].startswith("torch/"),
        "without --dataset torch/NAME",
    ),
    "opt_betas": (
        lambda options: _find_optimizer(options).has_betas,
        "without an optimizer that has betas",
    ),
    "opt_eps": (
        lambda options: _find_optimizer(options).has_eps,
        "without an optimizer that has an epsilon",
    ),
    "momentum": (
        lambda options: _find_optimizer(options).has_momentum,
        "without an optimizer that has momentum",
    ),
    "warmup_lr": (lambda options: options["warmup_epochs"] > 0, "without --warmup-epochs"),
    "min_lr": (lambda options: options["sched"] == "cosine", "without --sched cosine"),
    "clip_mode": (lambda options: options["clip_grad"] is not None, "without --clip-grad"),
    "model_ema_decay": (lambda options: options["model_ema"], "without --model-ema"),
    "model_ema_warmup": (lambda options: options["model_ema"], "without --model-ema"),
    # timm leaves the jitter out beside a policy, except beside 3-Augment.
    "color_jitter": (lambda options: not options["aa"] or "3a" in options["aa"], "beside --aa"),
    "remode": (lambda options: options["reprob"] > 0, "without --reprob above 0"),
    "recount": (lambda options: options["reprob"] > 0, "without --reprob above 0"),
    "mixup_prob": (lambda options: _mixes(options), "without --mixup or --cutmix"),
    "mixup_mode": (lambda options: _mixes(options), "without --mixup or --cutmix"),
    "mixup_switch_prob": (
        lambda options: options["mixup"] > 0 and options["cutmix"] > 0,
        "without --mixup and --cutmix",
    ),
}
ALWAYS_EFFECTIVE = {
    *("recipe", "data", "dataset", "val_split", "train_split", "subset", "workers", "device"),
    *("model", "model_kwargs", "num_classes", "img_size", "drop", "drop_path"),
    *("initial_checkpoint", "pretrained_path", "head_init_scale"),
    *("epochs", "batch_size", "micro_batch_size", "opt", "weight_decay", "layer_decay", "lr"),
    *("sched", "warmup_epochs", "clip_grad", "amp_dtype", "model_ema"),
    *("scale", "ratio", "hflip", "aa", "train_interpolation", "reprob"),
    *("mixup", "cutmix", "smoothing", "mean", "std", "crop_pct", "interpolation"),
    *("seed", "log_interval", "output", "resume", "checkpoint_hist", "checkpoint_interval"),
}

# Arguments of models that have an option of their own.
OPTION_OF_ARGUMENT = {
    "num_classes": "--num-classes",
    "img_size": "--img-size",
    "drop_rate": "--drop",
    "drop_path_rate": "--drop-path",
}


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would print its usage and exit."""

    def error(self, message: str):
        raise UserError(message)


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a run of ``vision.train``.

    Attributes:
        values: all options by name, as checkpoints and args.yaml hold them: plain data.
        config: the same, one typed configuration for each part of a run.
        note: a sentence for the user about the recipe, or an empty string.
    """

    values: Options
    config: TrainingConfig
    note: str = ""


def parse_training(argv: Sequence[str]) -> TrainingOptions:
    """Parses the command line of ``vision.train``.

    The recipe overrides the defaults, and the command line overrides the recipe.

    Raises:
        UserError: if an option or a line of the recipe does not exist, has a wrong value, lacks
            another option that it needs, or would have no effect.
    """
    parser = create_train_parser()
    given = vars(parser.parse_args(argv))
    defaults = collect_defaults(TRAINING_PARTS) | {"recipe": None}
    recipe_values: Options = {}
    note = ""
    if given.get("recipe"):
        recipe = read_recipe(given["recipe"], parser)
        recipe_values = recipe.values
        check_effects(defaults | recipe_values, recipe_values, f"{recipe.file}: ")
        note = describe_mismatch(recipe, given.get("model") or recipe_values.get("model"))
    values = _in_order(defaults | recipe_values | given)
    check_effects(values, given)
    check_values(values)
    values["model_kwargs"] = dict(values["model_kwargs"])
    values["output"] = values["output"] or f"runs/{values['model']}"
    return TrainingOptions(values, TrainingConfig.from_options(values), note)


def _in_order(options: Options) -> Options:
    """Returns the options as --help orders them, for args.yaml."""
    names = ("recipe", *(field.name for part in TRAINING_PARTS for field in fields(part)))
    return {name: options[name] for name in names if name in options}


def parse_validation(argv: Sequence[str]) -> tuple[DataConfig, ComputeConfig, ValidationConfig]:
    """Parses the command line of ``vision.validate``.

    Raises:
        UserError: if an option does not exist, has a wrong value, or would have no effect.
    """
    given = vars(create_validate_parser().parse_args(argv))
    values = collect_defaults(VALIDATION_PARTS) | given
    check_effects(values, given)
    data, compute, validation = (select_config(part, values) for part in VALIDATION_PARTS)
    return data, compute, validation


def create_train_parser() -> Parser:
    """Makes the parser of ``vision.train``; it returns only the options that were given."""
    parser = Parser(
        prog="python -m vision.train",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        description="Trains a timm model on images. The same command resumes a run that was "
        "interrupted. For several devices: torchrun --nproc_per_node DEVICES -m vision.train ...",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE.yaml",
        help="take options from this YAML file, or from the recipe of this name in vision/recipes; "
        "options on the command line override it (default: no recipe)",
    )
    add_options(parser, TRAINING_PARTS)
    return parser


def create_validate_parser() -> Parser:
    """Makes the parser of ``vision.validate``; it returns only the options that were given."""
    parser = Parser(
        prog="python -m vision.validate",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        description="Measures loss and accuracy of a checkpoint of vision.train. Model, image size "
        "and normalisation are those that the checkpoint was trained with.",
    )
    add_options(parser, VALIDATION_PARTS)
    return parser


def add_options(parser: Parser, parts: Iterable[type]) -> None:
    """Adds an option for each field of the configurations ``parts``, one group for each."""
    for part in parts:
        group = parser.add_argument_group(part.__doc__)
        for field in fields(part):
            name, parsing = to_flag(field.name), dict(field.metadata["parsing"])
            if field.name == "data":
                name, parsing["metavar"] = "data", "DATA"
            elif isinstance(field.default, bool):
                parsing["action"] = argparse.BooleanOptionalAction
            group.add_argument(name, help=_describe_option(field), **parsing)


def _describe_option(field: Any) -> str:
    """Returns the help text of a field, with its default where the text does not name it."""
    text, default = field.metadata["help"], field.default
    if default is MISSING or default is None or "(default: " in text:
        return text
    if isinstance(default, bool):
        shown = "yes" if default else "no"
    elif isinstance(default, tuple):
        shown = " ".join(f"{value:.4g}" for value in default)
    else:
        shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"{text} (default: {shown})"


def collect_defaults(parts: Iterable[type]) -> Options:
    """Returns the defaults of all options that have one; sequences are lists, as in YAML."""
    return {
        field.name: list(field.default) if isinstance(field.default, tuple) else field.default
        for part in parts
        for field in fields(part)
        if field.default is not MISSING
    }


def to_flag(name: str) -> str:
    """Returns the option on the command line that has this name in a recipe."""
    return "--" + name.replace("_", "-")


def check_effects(options: Options, given: Iterable[str], source: str = "") -> None:
    """Refuses options that have no effect beside the others.

    Args:
        options: all options.
        given: names of those that the user set; the defaults of the others are harmless.
        source: start of the error message.

    Raises:
        UserError: naming the option and what it needs.
    """
    if "opt" in options:
        try:
            _find_optimizer(options)
        except ValueError:
            suggestion = suggest_name(options["opt"], list_optimizers())
            raise UserError(
                f"{source}timm has no optimizer {options['opt']!r}{suggestion}"
            ) from None
    for name in given:
        # An option that was switched off asks for no effect.
        if name in NEEDS and options[name] is not False:
            has_effect, reason = NEEDS[name]
            if not has_effect(options):
                raise UserError(f"{source}{to_flag(name)} has no effect {reason}")


def _find_optimizer(options: Options) -> OptimInfo:
    return get_optimizer_info(options["opt"])


def _mixes(options: Mapping[str, Any]) -> bool:
    return options["mixup"] > 0 or options["cutmix"] > 0


def check_values(options: Options) -> None:
    """Refuses values that contradict each other.

    Raises:
        UserError: naming the options.
    """
    if not options.get("model"):
        raise UserError("--model is missing: name one of timm's models, or revcol_vit_*")
    if options["initial_checkpoint"] and options["pretrained_path"]:
        raise UserError("--initial-checkpoint and --pretrained-path exclude each other")
    for name, _ in options["model_kwargs"]:
        if name in OPTION_OF_ARGUMENT:
            raise UserError(f"use {OPTION_OF_ARGUMENT[name]} instead of {name} in --model-kwargs")
    warmup_epochs, epochs = options["warmup_epochs"], options["epochs"]
    if warmup_epochs >= epochs:
        raise UserError(f"--warmup-epochs ({warmup_epochs:g}) must be below --epochs ({epochs})")
    for name in ("scale", "ratio"):
        low, high = options[name]
        if not 0 < low <= high:
            raise UserError(f"--{name} needs two numbers above 0, the smaller one first")
