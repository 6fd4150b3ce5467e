"""What a run keeps in files: where it stands, and how it is found and taken up again."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from timm.task import ClassificationTask
from torch import nn

from revcol_nlp.checkpoints.contents import check_weights
from revcol_nlp.checkpoints.integrity import is_complete
from vision.training.errors import UserError
from vision.training.options import FREE
from vision.training.sources import check_classes

logger = logging.getLogger(__name__)

PATTERN = "*.pth.tar"

# What every checkpoint holds.
CONTENTS = {"args": Namespace, "data": dict, "progress": dict, "state_dict": dict}


@dataclass
class Progress:
    """Where a run stands, apart from its tensors.

    Generators of random numbers are not in it: they are seeded afresh for each micro batch.
    """

    epoch: int = 0
    update: int = 0
    # Of the epoch that is under way, and all processes.
    loss_sum: float = 0.0
    losses: int = 0
    seconds: float = 0.0
    unreadable: int = 0
    # One per epoch completed: what the summary, the curve and the report are made of.
    rows: list[dict[str, float]] = field(default_factory=list)


class Task(ClassificationTask):
    """timm's task, whose checkpoints say how far the run is, and on which data."""

    def __init__(self, *args: Any, classes: list[str], images: int, **kwargs: Any):
        super().__init__(*args, verbose=False, **kwargs)
        self.progress = Progress()
        self.data = {"classes": classes, "images": images}

    def get_checkpoint_state(self, ema: bool = False, **kwargs: Any) -> dict[str, Any]:
        state = super().get_checkpoint_state(ema=ema, **kwargs)
        return state if ema else state | {"progress": asdict(self.progress), "data": self.data}


def read(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint of this project, on the CPU; with ``mmap``, its tensors stay in the file.

    Raises:
        UserError: if there is no such file, or it is none.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        # torch compares no checksums; a file that is only looked into need not be read for that.
        if not mmap and not is_complete(path):
            raise ValueError("damaged")
        with torch.serialization.safe_globals([Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    # Of a torn or foreign file, torch's readers raise almost anything.
    except Exception:
        state = None
    if not isinstance(state, dict) or not all(
        isinstance(state.get(name), kind) for name, kind in CONTENTS.items()
    ):
        raise UserError(f"{path} is torn, or is no checkpoint of vision.train")
    return state


def load_weights(network: nn.Module, weights: dict[str, Any], path: str | Path) -> None:
    """Takes the weights of the checkpoint at ``path`` into ``network``.

    Raises:
        UserError: if they do not fit, or are no numbers.
    """
    try:
        check_weights(network.state_dict(), weights)
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path} does not fit its model: {reason}") from None


def read_weights(path: str) -> dict[str, Any]:
    """The weights in a checkpoint of any timm model; its averaged ones, where it has some.

    Raises:
        UserError: if there is no such file, or it holds no weights.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        return load_state_dict(path)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} holds no weights that can be read: {reason}") from None


def newest(folder: Path) -> Path | None:
    """The checkpoint of the run in ``folder`` that is furthest ahead, or None."""
    found = []
    for path in sorted(folder.glob(PATTERN)):
        try:
            progress = read(path, mmap=True)["progress"]
        except UserError as error:
            logger.warning("passed over: %s", error)
        else:
            # Of several equal ones, the one that the others are links to.
            place = progress["epoch"], progress["update"], path.name.startswith("last")
            found.append((place, path))
    return max(found)[1] if found else None


def check_same_run(state: dict[str, Any], args: Namespace, data: dict[str, Any]) -> None:
    """Refuses to go on with a run that was begun with other settings or data.

    Raises:
        UserError: naming what differs.
    """
    check_classes(state["data"]["classes"], data["classes"], f"the run in {args.output}", args.data)
    old, new = vars(state["args"]), vars(args)
    differing = [
        f"--{name.replace('_', '-')} was {old.get(name)} and is {value}"
        for name, value in new.items()
        if name not in FREE and old.get(name) != value
    ]
    if state["data"]["images"] != data["images"]:
        differing.append(f"there were {state['data']['images']} images and are {data['images']}")
    if differing:
        raise UserError(
            f"{args.output} holds a run begun with other settings: {'; '.join(differing)} "
            "(choose another --output, or remove that folder)"
        )
