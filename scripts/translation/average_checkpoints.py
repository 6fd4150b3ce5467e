"""Average the parameters of several fairseq checkpoints into one that fairseq-generate loads.

python -m scripts.translation.average_checkpoints --inputs FOLDER --num-epoch-checkpoints 10 \\
    --output FILE

Everything but the parameters comes from the checkpoint with the most updates; the optimiser's
state is left out. Files are read with torch's safe loading.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

import torch

from revcol_nlp.checkpoints.contents import (
    allow_fairseq_globals,
    check_contents,
    check_weights,
)
from revcol_nlp.checkpoints.integrity import explain_damage
from revcol_nlp.checkpoints.options import model_options, option_difference
from scripts.lib.command_line import BadInput, positive, refusing

EPOCH_NAME = re.compile(r"checkpoint(\d+)\.pt")
UPDATE_NAME = re.compile(r"checkpoint_\d+_(\d+)\.pt")


def last_checkpoints(folder: Path, name: re.Pattern[str], count: int) -> list[Path]:
    """The `count` checkpoints of `folder` with the highest number in their name, newest first."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    numbered = [(int(m[1]), p) for p in folder.iterdir() if (m := name.fullmatch(p.name))]
    if len(numbered) < count:
        raise BadInput(f"{folder} holds {len(numbered)} such checkpoints, {count} were asked for")
    return [path for _, path in sorted(numbered, reverse=True)[:count]]


def load(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, loaded safely; its tensors stay on disk until they are read."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}")
    try:
        with explain_damage(path):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        check_contents(state, path)
        check_weights(state["model"], state["model"])
    except (RuntimeError, OSError) as error:
        raise BadInput(f"{path} cannot be averaged: {error}") from error
    return state


def updates(state: dict[str, Any]) -> int:
    """How many updates the checkpoint's training had made."""
    history = state.get("optimizer_history") or [{}]
    return history[-1].get("num_updates", 0)


def check_alike(first_state: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    """Raise unless both models have the same names, shapes, types and non-floating values, and
    mean the same by them."""
    first, other = first_state["model"], state["model"]
    if odd := sorted(first.keys() ^ other.keys()):
        raise BadInput(f"{path} and the first checkpoint do not both hold the parameter {odd[0]}")
    for name, a in first.items():
        b = other[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise BadInput(
                f"{name} is {tuple(b.shape)} {b.dtype} in {path}"
                f" and {tuple(a.shape)} {a.dtype} in the first checkpoint"
            )
        if not a.is_floating_point() and not torch.equal(a, b):
            raise BadInput(f"{name} cannot be averaged, and differs between {path} and the first")
    if difference := option_difference(model_options(state), model_options(first_state)):
        option, theirs, ours = difference
        raise BadInput(f"{option} is {theirs} in {path} and {ours} in the first checkpoint")


def average(paths: list[Path]) -> dict[str, Any]:
    """One checkpoint whose floating-point tensors are the means, taken in float64, of those given.

    All other tensors must be equal in all checkpoints.
    """
    newest = first_state = load(paths[0])
    first = first_state["model"]
    sums = {k: v.to(torch.float64, copy=True) for k, v in first.items() if v.is_floating_point()}
    for path in paths[1:]:
        state = load(path)
        check_alike(first_state, state, path)
        for name, total in sums.items():
            total.add_(state["model"][name])
        if updates(state) > updates(newest):
            newest = state
    means = {name: (total / len(paths)).to(first[name].dtype) for name, total in sums.items()}
    kept = {key: value for key, value in newest.items() if key != "last_optimizer_state"}
    return {**kept, "model": {**first, **means}}


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path`, which is replaced only by a whole file."""
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent} to write {path.name} to")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        torch.save(state, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def parse_args() -> argparse.Namespace:
    """The command line; option names are those of fairseq's script of the same name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--inputs",
        nargs="+",
        type=Path,
        required=True,
        help="checkpoint files, or one folder together with one of the --num options",
    )
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--num-epoch-checkpoints", type=positive, metavar="N", help="average the last N epochs'"
    )
    which.add_argument(
        "--num-update-checkpoints",
        type=positive,
        metavar="N",
        help="average the last N saved every so many updates",
    )
    return parser.parse_args()


def choose(args: argparse.Namespace) -> list[Path]:
    """The checkpoints that the command line asks for."""
    count = args.num_epoch_checkpoints or args.num_update_checkpoints
    if count is None:
        if folders := [path for path in args.inputs if path.is_dir()]:
            raise BadInput(f"for the folder {folders[0]}, say how many of its checkpoints")
        return args.inputs
    if len(args.inputs) != 1:
        raise BadInput("a number of checkpoints goes with exactly one folder in --inputs")
    name = EPOCH_NAME if args.num_epoch_checkpoints else UPDATE_NAME
    return last_checkpoints(args.inputs[0], name, count)


@refusing(BadInput)
def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    args = parse_args()
    allow_fairseq_globals()
    paths = choose(args)
    save(average(paths), args.output)
    print(f"{args.output}: average of {', '.join(path.name for path in paths)}")


if __name__ == "__main__":
    main()
