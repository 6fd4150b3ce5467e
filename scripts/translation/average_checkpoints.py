"""Average the parameters of several fairseq checkpoints into one that fairseq-generate loads.

python -m scripts.translation.average_checkpoints --inputs FOLDER --num-epoch-checkpoints 10 \\
    --output FILE

The new checkpoint takes all other content from the checkpoint with the most updates, except for the
state of the optimiser, which it lacks. The command reads files with torch's safe loading. Its
options have the names of those of fairseq's script.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch

from revcol_nlp.checkpoints.contents import (
    allow_fairseq_globals,
    check_contents,
    check_weights,
)
from revcol_nlp.checkpoints.integrity import explain_damage, write_atomically
from revcol_nlp.checkpoints.options import model_options, option_difference
from scripts.lib.command_line import BadInput, build_parser, positive_integer, report_errors

EPOCH_NAME = re.compile(r"checkpoint(\d+)\.pt")
UPDATE_NAME = re.compile(r"checkpoint_\d+_(\d+)\.pt")


def find_last_checkpoints(folder: Path, name: re.Pattern[str], count: int) -> list[Path]:
    """Find the ``count`` checkpoints in ``folder`` with the highest numbers, newest first.

    Args:
        folder: of a training.
        name: `EPOCH_NAME` or `UPDATE_NAME`.
        count: how many checkpoints to find.

    Raises:
        BadInput: if there are fewer.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder")
    numbered = [(int(m[1]), p) for p in folder.iterdir() if (m := name.fullmatch(p.name))]
    if len(numbered) < count:
        raise BadInput(
            f"{folder} holds {len(numbered)} such checkpoints, but {count} were requested"
        )
    return [path for _, path in sorted(numbered, reverse=True)[:count]]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint safely; its tensors stay on disk until they are read.

    Raises:
        BadInput: if the file does not exist, is damaged, or holds weights that are not finite.
    """
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


def read_update_count(state: dict[str, Any]) -> int:
    """Return the number of updates that a checkpoint was trained for."""
    history = state.get("optimizer_history") or [{}]
    return history[-1].get("num_updates", 0)


def check_alike(first_state: dict[str, Any], state: dict[str, Any], path: Path) -> None:
    """Check that two checkpoints are of the same model, so that their average means something.

    Raises:
        BadInput: if names, shapes, types or integer values of the weights differ, or an option that
            changes what the weights mean.
    """
    first, other = first_state["model"], state["model"]
    if odd := sorted(first.keys() ^ other.keys()):
        raise BadInput(f"only one of {path} and the first checkpoint has the parameter {odd[0]}")
    for name, a in first.items():
        b = other[name]
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise BadInput(
                f"{name} is {tuple(b.shape)} {b.dtype} in {path}"
                f" and {tuple(a.shape)} {a.dtype} in the first checkpoint"
            )
        if not a.is_floating_point() and not torch.equal(a, b):
            raise BadInput(
                f"{name} is not floating-point and differs between {path} and the first checkpoint"
            )
    if difference := option_difference(model_options(state), model_options(first_state)):
        option, theirs, ours = difference
        raise BadInput(f"{option} is {theirs} in {path} and {ours} in the first checkpoint")


def average(paths: list[Path]) -> dict[str, Any]:
    """Average checkpoints: each floating-point tensor is the mean, computed in float64.

    Raises:
        BadInput: if the checkpoints are not of the same model.
    """
    newest = first_state = load_checkpoint(paths[0])
    first = first_state["model"]
    sums = {k: v.to(torch.float64, copy=True) for k, v in first.items() if v.is_floating_point()}
    for path in paths[1:]:
        state = load_checkpoint(path)
        check_alike(first_state, state, path)
        for name, total in sums.items():
            total.add_(state["model"][name])
        if read_update_count(state) > read_update_count(newest):
            newest = state
    means = {name: (total / len(paths)).to(first[name].dtype) for name, total in sums.items()}
    kept = {key: value for key, value in newest.items() if key != "last_optimizer_state"}
    return {**kept, "model": {**first, **means}}


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` to ``path`` in one step."""
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent} to write {path.name} to")
    with write_atomically(path) as part:
        torch.save(state, part)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser(__spec__.name, __doc__)
    parser.add_argument(
        "--inputs",
        nargs="+",
        type=Path,
        required=True,
        help="checkpoint files, or one folder together with one of the --num options",
    )
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--num-epoch-checkpoints",
        type=positive_integer,
        metavar="N",
        help="average the last N checkpoints that were saved at the end of an epoch",
    )
    which.add_argument(
        "--num-update-checkpoints",
        type=positive_integer,
        metavar="N",
        help="average the last N checkpoints that were saved after a number of updates",
    )
    return parser.parse_args()


def choose_checkpoints(args: argparse.Namespace) -> list[Path]:
    """Find the checkpoints that the command line names."""
    count = args.num_epoch_checkpoints or args.num_update_checkpoints
    if count is None:
        if folders := [path for path in args.inputs if path.is_dir()]:
            raise BadInput(
                f"{folders[0]} is a folder: add --num-epoch-checkpoints or --num-update-checkpoints"
            )
        return args.inputs
    if len(args.inputs) != 1:
        raise BadInput("the --num options need exactly one folder in --inputs")
    name = EPOCH_NAME if args.num_epoch_checkpoints else UPDATE_NAME
    return find_last_checkpoints(args.inputs[0], name, count)


@report_errors(BadInput)
def main() -> None:
    """Run the command."""
    args = parse_args()
    allow_fairseq_globals()
    paths = choose_checkpoints(args)
    save_checkpoint(average(paths), args.output)
    print(f"{args.output}: average of {', '.join(path.name for path in paths)}")


if __name__ == "__main__":
    main()
