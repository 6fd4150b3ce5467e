"""The options of the commands: their names, types, defaults, recipes, and which need which."""

from __future__ import annotations

import argparse
import ast
import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml
from timm.optim import get_optimizer_info, list_optimizers

from vision.training.errors import UserError

RECIPES = Path(__file__).parents[1] / "recipes"

# A run goes on under other values of these; all others change what it computes.
FREE = {
    *("data", "recipe", "dataset_download", "workers", "device", "output", "resume"),
    *("checkpoint_hist", "checkpoint_interval", "log_interval"),
}


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would print its usage and exit."""

    def error(self, message: str):
        raise UserError(message)


def whole(least: int) -> Callable[[str], int]:
    """Type of a whole number that is at least ``least``."""

    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def number(least: float = 0.0, most: float = float("inf")) -> Callable[[str], float]:
    """Type of a finite number between ``least`` and ``most``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most or value == float("inf"):
            limits = f"from {least:g}" + (f" to {most:g}" if most != float("inf") else "")
            raise argparse.ArgumentTypeError(f"expected a number {limits}, got {text!r}")
        return value

    return parse


def setting(text: str) -> tuple[str, object]:
    """Type of ``key=value``, the value a Python literal or else a string."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def add_common(parser: Parser) -> None:
    """What training and validation share."""
    parser.add_argument(
        "data", metavar="DATA", help="folder, .zip or .tar with train/ and val/ of class folders"
    )
    parser.add_argument("--dataset", default="", help="of timm: torch/cifar10, hfds/NAME, ...")
    parser.add_argument("--dataset-download", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--val-split", default="validation")
    parser.add_argument("--workers", type=whole(0), default=4, help="per process, to read images")
    parser.add_argument("--device", default=None, help="default: cuda where there is one, or cpu")


def train_parser() -> Parser:
    """The parser of ``vision.train``: the one home of its defaults."""
    parser = Parser(prog="vision.train", allow_abbrev=False, description="Trains a timm model.")
    switch = argparse.BooleanOptionalAction

    parser.add_argument("--recipe", metavar="NAME|FILE.yaml", help="overrides the defaults")
    add_common(parser)
    group = parser.add_argument_group("data")
    group.add_argument("--train-split", default="train")
    group.add_argument("--subset", type=whole(1), help="train on this many images, drawn once")

    group = parser.add_argument_group("model")
    group.add_argument("--model", help="any of timm's, or revcol_vit_*")
    group.add_argument("--model-kwargs", type=setting, nargs="+", default=[], metavar="KEY=VALUE")
    group.add_argument("--num-classes", type=whole(1), help="default: as many as the data has")
    group.add_argument("--img-size", type=whole(1), help="pixels; default: the model's own")
    group.add_argument("--drop", type=number(0, 1), help="dropout; default: the model's own")
    group.add_argument("--drop-path", type=number(0, 1), help="default: the model's own")
    group.add_argument("--initial-checkpoint", metavar="FILE", help="weights to start from")
    group.add_argument(
        "--pretrained-path",
        metavar="FILE",
        help="weights to fine-tune: head replaced and positions resampled where sizes differ",
    )
    group.add_argument("--head-init-scale", type=number(), help="multiplies the first head")

    group = parser.add_argument_group("optimisation")
    group.add_argument("--epochs", type=whole(1), default=100)
    group.add_argument(
        "--batch-size", type=whole(1), default=256, help="images per update, over all devices"
    )
    group.add_argument(
        "--micro-batch-size", type=whole(1), help="images per device and forward; default: all"
    )
    group.add_argument("--opt", default="adamw")
    group.add_argument("--opt-betas", type=number(0, 1), nargs="+")
    group.add_argument("--opt-eps", type=number())
    group.add_argument("--momentum", type=number(0, 1))
    group.add_argument("--weight-decay", type=number(), default=0.05)
    group.add_argument("--layer-decay", type=number(0, 1))
    group.add_argument("--lr", type=number(), default=1e-3)
    group.add_argument("--sched", choices=("cosine", "constant"), default="cosine")
    group.add_argument("--warmup-epochs", type=number(), default=0)
    group.add_argument("--warmup-lr", type=number(), default=1e-6)
    group.add_argument("--min-lr", type=number(), default=1e-6)
    group.add_argument("--clip-grad", type=number())
    group.add_argument("--clip-mode", choices=("norm", "value", "agc"), default="norm")
    group.add_argument("--amp-dtype", choices=("bfloat16", "float16"), help="default: float32")
    group.add_argument("--model-ema", action=switch, default=False)
    group.add_argument("--model-ema-decay", type=number(0, 1), default=0.9999)
    group.add_argument("--model-ema-warmup", action=switch, default=False)

    group = parser.add_argument_group("augmentation and regularisation")
    group.add_argument("--scale", type=number(0, 1), nargs=2, default=[0.08, 1.0])
    group.add_argument("--ratio", type=number(), nargs=2, default=[3 / 4, 4 / 3])
    group.add_argument("--hflip", type=number(0, 1), default=0.5)
    group.add_argument("--color-jitter", type=number(), default=0.0)
    group.add_argument("--aa", help="AutoAugment or RandAugment, e.g. rand-m9-mstd0.5-inc1")
    group.add_argument(
        "--train-interpolation", choices=("random", "bilinear", "bicubic"), default="random"
    )
    group.add_argument("--reprob", type=number(0, 1), default=0.0, help="random erasing")
    group.add_argument("--remode", choices=("const", "rand", "pixel"), default="pixel")
    group.add_argument("--recount", type=whole(1), default=1)
    group.add_argument("--mixup", type=number(), default=0.0)
    group.add_argument("--cutmix", type=number(), default=0.0)
    group.add_argument("--mixup-prob", type=number(0, 1), default=1.0)
    group.add_argument("--mixup-switch-prob", type=number(0, 1), default=0.5)
    group.add_argument("--mixup-mode", choices=("batch", "pair", "elem"), default="batch")
    group.add_argument("--smoothing", type=number(0, 1), default=0.1)

    group = parser.add_argument_group("how images enter the model; defaults: the model's own")
    group.add_argument("--mean", type=float, nargs=3)
    group.add_argument("--std", type=float, nargs=3)
    group.add_argument("--crop-pct", type=number(0, 1))
    group.add_argument("--interpolation", choices=("bilinear", "bicubic"))

    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=whole(0), default=42)
    group.add_argument("--output", metavar="DIR", help="default: runs/MODEL")
    group.add_argument(
        "--resume", action=switch, default=True, help="go on from what --output holds"
    )
    group.add_argument("--checkpoint-hist", type=whole(1), default=3, help="best ones to keep")
    group.add_argument(
        "--checkpoint-interval", type=whole(0), default=0, help="updates; 0: at ends of epochs only"
    )
    group.add_argument("--log-interval", type=whole(1), default=50, help="updates")
    return parser


def validate_parser() -> Parser:
    """The parser of ``vision.validate``; all that is not here comes from the checkpoint."""
    parser = Parser(prog="vision.validate", allow_abbrev=False, description="Measures accuracy.")
    add_common(parser)
    parser.add_argument("--checkpoint", metavar="FILE", required=True)
    parser.add_argument("--ema", action="store_true", help="the averaged weights")
    parser.add_argument("--batch-size", type=whole(1), default=256, help="images per process")
    parser.add_argument("--results", metavar="FILE.json", help="receives the numbers")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a run: the defaults, overridden by the recipe, overridden by ``argv``.

    Raises:
        UserError: if an option or a key of the recipe does not exist, has a wrong value, misses
            what it needs, or would have no effect.
    """
    parser = train_parser()
    unset = object()
    names = vars(parser.parse_args(["DATA"])).keys()
    given = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(names, unset))))
    given = {name: value for name, value in given.items() if value is not unset}

    recipe = {}
    if given.get("recipe"):
        file, recipe = read_recipe(given["recipe"], parser, names - {"data", "recipe"})
        settings = argparse.Namespace(**vars(parser.parse_args(["DATA"])) | recipe)
        check_effects(settings, recipe, f"{file}: ")
    args = argparse.Namespace(**vars(parser.parse_args(["DATA"])) | recipe | given)
    check_effects(args, given)
    check_values(args)
    args.model_kwargs = dict(args.model_kwargs)
    args.output = args.output or f"runs/{args.model}"
    return args


def read_recipe(recipe: str, parser: Parser, keys: set[str]) -> tuple[Path, dict[str, object]]:
    """The file of a recipe, given by name or path, and its options.

    Raises:
        UserError: if there is no such recipe, or a key or value in it is wrong.
    """
    file = Path(recipe)
    if file.suffix not in (".yaml", ".yml"):
        file = RECIPES / f"{recipe}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise UserError(f"there is no recipe {recipe!r}: name a .yaml file, or one of {known}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold lines of 'option: value'")

    options = {}
    for key, value in content.items():
        if key not in keys:
            raise UserError(f"{file}: there is no option {key!r}{nearest(str(key), keys)}")
        try:
            options[key] = getattr(parser.parse_args(["DATA", *arguments(key, value)]), key)
        except UserError as error:
            raise UserError(f"{file}: wrong value for {key!r}: {error}") from None
    return file, options


def arguments(key: str, value: object) -> list[str]:
    """The line of a recipe as on the command line, so that the parser checks its type."""
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


def nearest(name: str, names: Iterable[str]) -> str:
    """A question naming what ``name`` may have been meant to be, to end a sentence with."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_effects(args: argparse.Namespace, given: Iterable[str], source: str = "") -> None:
    """Refuses options among ``given`` that the others leave without an effect."""
    try:
        info = get_optimizer_info(args.opt)
    except ValueError:
        raise UserError(
            f"{source}timm has no optimizer {args.opt!r}{nearest(args.opt, list_optimizers())}"
        ) from None
    mixes = args.mixup > 0 or args.cutmix > 0
    # Each option is useless unless the condition holds; the text says why.
    needs = {
        "dataset_download": (args.dataset.startswith("torch/"), "without --dataset torch/NAME"),
        "opt_betas": (info.has_betas, "without an optimizer that has betas"),
        "opt_eps": (info.has_eps, "without an optimizer that has an epsilon"),
        "momentum": (info.has_momentum, "without an optimizer that has momentum"),
        "warmup_lr": (args.warmup_epochs > 0, "without --warmup-epochs"),
        "min_lr": (args.sched == "cosine", "without --sched cosine"),
        "clip_mode": (args.clip_grad is not None, "without --clip-grad"),
        "model_ema_decay": (args.model_ema, "without --model-ema"),
        "model_ema_warmup": (args.model_ema, "without --model-ema"),
        # timm leaves the jitter out where a policy is on, but for 3-Augment.
        "color_jitter": (not args.aa or "3a" in args.aa, "beside --aa"),
        "remode": (args.reprob > 0, "without --reprob above 0"),
        "recount": (args.reprob > 0, "without --reprob above 0"),
        "mixup_prob": (mixes, "without --mixup or --cutmix"),
        "mixup_mode": (mixes, "without --mixup or --cutmix"),
        "mixup_switch_prob": (args.mixup > 0 and args.cutmix > 0, "without --mixup and --cutmix"),
    }
    for name, (useful, reason) in needs.items():
        if name in given and not useful and getattr(args, name) is not False:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{source}{flag} has no effect {reason}")


def check_values(args: argparse.Namespace) -> None:
    """Refuses values that do not go together."""
    if not args.model:
        raise UserError("--model is missing: name one of timm's models, or revcol_vit_*")
    if args.initial_checkpoint and args.pretrained_path:
        raise UserError("--initial-checkpoint and --pretrained-path exclude each other")
    own = {"num_classes": "num-classes", "img_size": "img-size", "drop_rate": "drop"}
    own |= {"drop_path_rate": "drop-path"}
    for name, _ in args.model_kwargs:
        if name in own:
            raise UserError(f"say --{own[name]} instead of {name} in --model-kwargs")
    if args.warmup_epochs >= args.epochs:
        raise UserError(
            f"--warmup-epochs ({args.warmup_epochs:g}) must be below --epochs ({args.epochs})"
        )
    for name in ("scale", "ratio"):
        low, high = getattr(args, name)
        if not 0 < low <= high:
            raise UserError(f"--{name} needs two numbers above 0, the smaller one first")
