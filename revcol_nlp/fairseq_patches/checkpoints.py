"""Patches of loading, saving and copying checkpoints.

Each function replaces a function of fairseq, which it gets as ``original``.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq.file_io import PathManager
from fairseq.models.ema.ema import EMA
from fairseq.trainer import Trainer

from ..checkpoints.contents import check_contents, check_finite
from ..checkpoints.errors import (
    DictionaryMismatchError,
    UnusableCheckpointError,
    UnwritableError,
)
from ..checkpoints.integrity import explain_damage
from .replacing import find_command_modules

SECONDS_TO_WAIT = (2.5, 2.5)  # fairseq waits so long before the second and the third attempt
OF_ONE_PROCESS = re.compile(r"-(shard|rank-|model_part-)\d+\.pt$")  # fairseq's names

# Loading


def load_or_explain(original: Callable, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Replaces ``checkpoint_utils.load_checkpoint_to_cpu``.

    Where several processes load the same file, the first one reads it to compare checksums, and
    the others leave that to it.

    Raises:
        DamagedCheckpointError: if the file is truncated or overwritten.
        UnusableCheckpointError: if it is not a fairseq checkpoint.
    """
    is_shared = not OF_ONE_PROCESS.search(str(path))
    with explain_damage(path, verify_checksums=_is_first_process() or not is_shared):
        try:
            state = original(path, *args, **kwargs)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            # fairseq raises errors of all kinds at a file that is not a checkpoint.
            check_contents(torch.load(path, map_location="cpu", weights_only=True), path)
            raise
    check_contents(state, path)
    return state


def refuse_nonfinite_weights(
    original: Callable, path: str, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Replaces ``checkpoint_utils.load_checkpoint_to_cpu``.

    Raises:
        UnusableCheckpointError: if a weight, or a moving average of one, is infinite or nan.
    """
    state = original(path, *args, **kwargs)
    extra_state = state.get("extra_state")
    averages = extra_state if isinstance(extra_state, dict) else {}
    for weights in (state["model"], averages.get("ema"), averages.get("ema_fp32_params")):
        if isinstance(weights, dict):
            try:
                check_finite(weights)
            except UnusableCheckpointError as error:
                raise UnusableCheckpointError(f"{path}: {error}") from None
    return state


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def name_what_does_not_fit(
    original: Callable, self: Trainer, filename: str, *args: Any, **kwargs: Any
) -> Any:
    """Replaces ``Trainer.load_checkpoint``.

    Raises:
        DictionaryMismatchError: if the checkpoint was trained with another dictionary.
        UnusableCheckpointError: if its weights cannot be used.
    """
    try:
        return original(self, filename, *args, **kwargs)
    except Exception as error:
        if isinstance(error.__context__, DictionaryMismatchError | UnusableCheckpointError):
            raise type(error.__context__)(f"{filename}: {error.__context__}") from None
        raise


def restore_what_is_not_averaged(
    original: Callable, self: EMA, state_dict: dict[str, Any], **kwargs: Any
) -> None:
    """Replaces ``EMA.restore``, which each update calls with the averaged tensors alone."""
    original(self, {**self.model.state_dict(), **state_dict}, **kwargs)


# Saving


def save_or_explain(
    original: Callable, content: object, filename: str, async_write: bool = False
) -> None:
    """Replaces ``checkpoint_utils.torch_persistent_save``.

    Raises:
        UnwritableError: if the file cannot be written; an older file of that name stays as it was.
    """
    try:
        original(content, filename, async_write)
    except (OSError, RuntimeError) as error:
        if not _is_of_writing(error):
            raise
        Path(f"{filename}.tmp").unlink(missing_ok=True)
        raise _describe_failure(filename, error) from error


def save_from_the_start(original: Callable, content: object, file: Any) -> None:
    """Replaces ``checkpoint_utils._torch_persistent_save``.

    After a failed attempt, fairseq writes the whole checkpoint behind what is in the file already.
    """
    if isinstance(file, str):
        return original(content, file)
    for seconds in SECONDS_TO_WAIT:
        try:
            return torch.save(content, file)
        except (OSError, RuntimeError):
            time.sleep(seconds)
            file.seek(0)
            file.truncate()
    return torch.save(content, file)


def copy_atomically(original: Callable, src_path: str, dst_path: str, **kwargs: Any) -> Any:
    """Replaces ``PathManager.copy``, which makes checkpoint_last.pt and checkpoint_best.pt.

    Raises:
        UnwritableError: if the file cannot be written; an older file of that name stays as it was.
    """
    if PathManager.path_requires_pathmanager(dst_path):
        return original(src_path, dst_path, **kwargs)
    unfinished = dst_path + ".tmp"
    try:
        copied = original(src_path, unfinished, **kwargs)
        os.replace(unfinished, dst_path)
    except OSError as error:
        Path(unfinished).unlink(missing_ok=True)
        raise _describe_failure(dst_path, error) from error
    return copied


def check_save_dir(original: Callable, save_dir: str) -> None:
    """Replaces ``checkpoint_utils.verify_checkpoint_directory``.

    Raises:
        UnwritableError: if checkpoints cannot be written to the folder.
    """
    try:
        original(save_dir)
    except OSError as error:
        raise UnwritableError(
            f"--save-dir {save_dir} is not a folder that can be written to: {error.strerror}"
        ) from error


def _is_of_writing(error: Exception) -> bool:
    # torch's writer raises RuntimeError. So does a GPU that fails, which is not about the disk.
    is_of_writer = "PytorchStreamWriter" in str(error) or "inline_container" in str(error)
    return isinstance(error, OSError) or isinstance(error.__context__, OSError) or is_of_writer


def _describe_failure(filename: str, error: Exception) -> UnwritableError:
    # torch's writer fails a second time, when it closes the file that it could not write.
    first = error.__context__ if isinstance(error.__context__, OSError) else error
    reason = getattr(first, "strerror", None) or " ".join(str(first).split())
    return UnwritableError(
        f"the checkpoint {filename} cannot be written ({reason}); after fixing that, rerun the "
        "same command to resume from the last complete checkpoint"
    )


# What a checkpoint holds


def save_the_languages(original: Callable, self: Trainer) -> dict[str, Any]:
    """Replaces ``Trainer.state_dict``.

    fairseq finds the languages in the names of the data's files and does not save them, so that
    loading a model would need its training data.
    """
    state = original(self)
    task = state["cfg"]["task"]
    if isinstance(task, dict) and "source_lang" in task:
        task.update(source_lang=self.task.cfg.source_lang, target_lang=self.task.cfg.target_lang)
    return state


def save_early_stopping(
    original: Callable, self: Trainer, filename: str, extra_state: dict[str, Any]
) -> str | None:
    """Replaces ``Trainer.save_checkpoint``."""
    for counts in _find_early_stopping():
        extra_state = {**extra_state, "early_stopping": dict(counts)}
    return original(self, filename, extra_state)


def load_early_stopping(
    original: Callable, self: Trainer, *args: Any, reset_meters: bool = False, **kwargs: Any
) -> dict[str, Any] | None:
    """Replaces ``Trainer.load_checkpoint``."""
    extra_state = original(self, *args, reset_meters=reset_meters, **kwargs)
    if extra_state is not None and not reset_meters:
        for counts in _find_early_stopping():
            counts.update(extra_state.get("early_stopping", {}))
    return extra_state


def _find_early_stopping() -> list[dict[str, Any]]:
    # --patience counts in attributes of a function. The first module is the one that runs.
    modules = find_command_modules("fairseq_cli.train")[:1]
    return [vars(module.should_stop_early) for module in modules]
