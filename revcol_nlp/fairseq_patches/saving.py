"""Checkpoints that are written whole or not at all, and a sentence where one cannot be written.

Each function stands in for one of fairseq's, which it gets as its first argument.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fairseq.file_io import PathManager

SECONDS_TO_WAIT = (2.5, 2.5)  # as fairseq waits, before it tries to write a second and a third time


class UnwritableError(RuntimeError):
    """A file or folder of a training cannot be written."""


def save_whole(
    original: Callable, content: object, filename: str, async_write: bool = False
) -> None:
    """``checkpoint_utils.torch_persistent_save``.

    Raises:
        UnwritableError: if the file cannot be written; what stood there is left as it was.
    """
    try:
        original(content, filename, async_write)
    except (OSError, RuntimeError) as error:
        Path(f"{filename}.tmp").unlink(missing_ok=True)
        raise _unwritable(filename, error) from error


def save_from_the_start(original: Callable, content: object, file: Any) -> None:
    """``checkpoint_utils._torch_persistent_save``.

    Where a write fails fairseq tries again, but goes on in the file where it stopped, and the two
    halves of a file, one behind the other, take the place of a whole checkpoint.
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


def copy_whole(original: Callable, src_path: str, dst_path: str, **kwargs: Any) -> Any:
    """``PathManager.copy``: checkpoint_last.pt and checkpoint_best.pt are plain copies, which a
    kill can tear.

    Raises:
        UnwritableError: if the file cannot be written; what stood there is left as it was.
    """
    if PathManager.path_requires_pathmanager(dst_path):
        return original(src_path, dst_path, **kwargs)
    unfinished = dst_path + ".tmp"
    try:
        copied = original(src_path, unfinished, **kwargs)
        os.replace(unfinished, dst_path)
    except OSError as error:
        Path(unfinished).unlink(missing_ok=True)
        raise _unwritable(dst_path, error) from error
    return copied


def check_folder(original: Callable, save_dir: str) -> None:
    """``checkpoint_utils.verify_checkpoint_directory``.

    Raises:
        UnwritableError: if checkpoints cannot be written to the folder.
    """
    try:
        original(save_dir)
    except OSError as error:
        raise UnwritableError(
            f"--save-dir {save_dir} is no folder that can be written to: {error.strerror}"
        ) from error


def _unwritable(filename: str, error: Exception) -> UnwritableError:
    # torch's writer fails a second time, while it closes the file that it could not write.
    first = error.__context__ if isinstance(error.__context__, OSError) else error
    reason = getattr(first, "strerror", None) or " ".join(str(first).split())
    return UnwritableError(
        f"the checkpoint {filename} cannot be written ({reason}); when that is mended, the same "
        "command goes on from the last whole checkpoint"
    )
