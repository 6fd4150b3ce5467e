"""Checkpoints of a run: their contents, how they are read, and how a run finds its latest.

A checkpoint holds plain data and tensors only, so ``torch.load(..., weights_only=True)`` reads it
without any permission.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from timm.task import TrainingTask
from timm.utils import CheckpointSaver, NativeScaler, unwrap_model
from torch import nn
from torch.optim import Optimizer

from revcol_nlp.checkpoints.contents import check_weights
from revcol_nlp.checkpoints.integrity import is_complete
from vision.training.command import UserError, describe_error
from vision.training.configs import TRAINING_PARTS, CheckpointConfig
from vision.training.sources import check_classes

logger = logging.getLogger(__name__)

PATTERN = "*.pth.tar"


class OutdatedCheckpoint(UserError):
    """An earlier version of ``vision.train`` saved the checkpoint."""


@dataclass
class Progress:
    """The position of a run, and what it measured so far.

    States of random generators are not part of it: the generators are seeded for each microbatch.

    Attributes:
        epoch: completed epochs.
        update: completed updates of the epoch under way.
        loss_sum: of the epoch under way, over its updates with a finite loss.
        losses: number of these updates.
        seconds: of training in the epoch under way.
        unreadable: images of the epoch under way that could not be read, in all processes.
        rows: measurements of each completed epoch.
    """

    epoch: int = 0
    update: int = 0
    loss_sum: float = 0.0
    losses: int = 0
    seconds: float = 0.0
    unreadable: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """Mean loss of the epoch under way."""
        return self.loss_sum / max(1, self.losses)


class RunState:
    """The state of a run besides its optimizer, in the form that timm's CheckpointSaver asks for.

    Args:
        task: that is trained.
        options: all options of the run by name, as plain data.
        data: ``classes``, the names of the classes, and ``images``, the number for training.
    """

    def __init__(self, task: TrainingTask, options: Mapping[str, Any], data: dict[str, Any]):
        self.task, self.options, self.data = task, options, data
        self.progress = Progress()

    def get_checkpoint_state(
        self, ema: bool = False, unwrap_fn: Callable[[nn.Module], nn.Module] = unwrap_model
    ) -> dict[str, Any]:
        """Returns what a checkpoint holds of the task; without ``ema``, of the run as well."""
        contents = self.task.get_checkpoint_state(ema=ema, unwrap_fn=unwrap_fn)
        if not ema:
            contents |= {
                "arch": self.options["model"],
                "options": dict(self.options),
                "data": self.data,
                "progress": asdict(self.progress),
            }
        return contents

    def load(self, state: dict[str, Any]) -> None:
        """Restores the state that a checkpoint holds."""
        self.progress = Progress(**state["progress"])
        self.task.load_checkpoint_state(state["state_dict"], state.get("task_state"))
        if self.task.has_ema():
            self.task.load_checkpoint_state(
                state["state_dict_ema"], state.get("task_state_ema"), ema=True
            )


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Reads a checkpoint of ``vision.train`` to the CPU.

    Args:
        path: of the file.
        mmap: leave the tensors in the file, and skip the comparison of checksums.

    Raises:
        OutdatedCheckpoint: if an earlier version saved the file.
        UserError: if there is no such file, or it is truncated, overwritten or not a checkpoint.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        # torch compares no checksums.
        if not mmap and not is_complete(path):
            raise ValueError("a checksum differs")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    # For truncated and foreign files, torch's readers raise errors of almost any kind.
    except Exception as error:
        if "argparse.Namespace" in str(error):
            raise OutdatedCheckpoint(_describe_outdated(path)) from None
        state = None
    if isinstance(state, dict) and isinstance(state.get("args"), Namespace):
        raise OutdatedCheckpoint(_describe_outdated(path))
    if not _has_contents(state):
        raise UserError(f"{path} is damaged, or is not a checkpoint of vision.train")
    return state


def _has_contents(state: Any) -> bool:
    """True if ``state`` has all that `RunState` puts into a checkpoint, each of its type."""
    kinds = {"options": dict, "data": dict, "progress": dict, "state_dict": dict}
    if not isinstance(state, dict):
        return False
    if not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        return False
    options, data, progress = state["options"], state["data"], state["progress"]
    return (
        isinstance(options.get("model"), str)
        and isinstance(data.get("classes"), list)
        and isinstance(data.get("images"), int)
        and progress.keys() == {each.name for each in fields(Progress)}
    )


def _describe_outdated(path: str | Path) -> str:
    return (
        f"{path} was saved by an earlier version of vision.train, as an argparse.Namespace in it "
        "shows: this version cannot resume or validate it, but --initial-checkpoint starts a new "
        "run from its weights (choose another --output)"
    )


def load_weights(network: nn.Module, weights: dict[str, Any], path: str | Path) -> None:
    """Loads the weights of the checkpoint at ``path`` into ``network``.

    Raises:
        UserError: if they do not fit, or are not finite numbers.
    """
    try:
        check_weights(network.state_dict(), weights)
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit its model: {describe_error(error)}") from None


def read_weights(path: str) -> dict[str, Any]:
    """Reads the weights in a checkpoint of any timm model; the averaged ones if there are some.

    Raises:
        UserError: if there is no such file, or it holds no weights.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        with keep_safe_globals():
            return load_state_dict(path)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} holds no weights that can be read: {reason}") from None


@contextmanager
def keep_safe_globals() -> Iterator[None]:
    """Restores torch's list of classes that safe loading allows, as it was at the start.

    timm allows argparse.Namespace while it reads a file, and takes that permission back afterwards,
    also where another library had given it.
    """
    allowed = torch.serialization.get_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


def create_saver(
    config: CheckpointConfig,
    state: RunState,
    network: nn.Module,
    optimizer: Optimizer,
    scaler: NativeScaler | None,
) -> CheckpointSaver:
    """Returns timm's saver, which keeps the last and the best checkpoints in the run's folder."""
    return CheckpointSaver(
        network,
        optimizer,
        amp_scaler=scaler,
        task=state,
        checkpoint_dir=config.output,
        recovery_dir=config.output,
        max_history=config.checkpoint_hist,
    )


def find_latest_checkpoint(folder: Path) -> Path | None:
    """Returns the checkpoint in ``folder`` with the most updates, or None if there is none.

    Damaged files are skipped with a warning.

    Raises:
        OutdatedCheckpoint: if an earlier version saved one of them; the run must not overwrite it.
    """
    found = []
    for path in sorted(folder.glob(PATTERN)):
        try:
            progress = read_checkpoint(path, mmap=True)["progress"]
        except OutdatedCheckpoint:
            raise
        except UserError as error:
            logger.warning("skipped: %s", error)
        else:
            # Several files may be links to one checkpoint; prefer the name that all runs have.
            position = progress["epoch"], progress["update"], path.name.startswith("last")
            found.append((position, path))
    return max(found)[1] if found else None


def check_same_run(
    state: dict[str, Any], options: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Refuses to resume a run that was started with other options or other data.

    Args:
        state: of a checkpoint.
        options: of this run.
        data: as that of `RunState`.

    Raises:
        UserError: naming what differs.
    """
    output = options["output"]
    check_classes(
        state["data"]["classes"], data["classes"], f"the run in {output}", options["data"]
    )
    old = state["options"]
    fixed = [
        each.name
        for part in TRAINING_PARTS
        for each in fields(part)
        if not each.metadata["may_change"]
    ]
    differences = [
        f"--{name.replace('_', '-')} was {old.get(name)} and is {options[name]}"
        for name in fixed
        if old.get(name) != options[name]
    ]
    if state["data"]["images"] != data["images"]:
        differences.append(f"there were {state['data']['images']} images and are {data['images']}")
    if differences:
        raise UserError(
            f"{output} holds a run that was started with other options or data: "
            f"{'; '.join(differences)} (choose another --output, or remove that folder)"
        )
