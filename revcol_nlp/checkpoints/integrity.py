"""Complete files: a check by checksums, an error that explains damage, and atomic writing."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DamagedCheckpointError, UnusableCheckpointError


def is_complete(path: str | Path) -> bool:
    """Whether every record in the checkpoint file at ``path`` matches its checksum.

    This reads the whole file. Files that torch wrote before version 1.6 are pickles without
    checksums: they count as complete, and torch finds out when it loads them.
    """
    with open(path, "rb") as file:
        if file.read(1) == b"\x80":  # the first byte of a pickle
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises errors of any kind on a broken archive
        return False


@contextmanager
def explain_damage(path: str | Path, *, verify_checksums: bool = True) -> Iterator[None]:
    """Raise an error that names the damage where the checkpoint at ``path`` is loaded inside.

    torch itself compares no checksums: from a file with a flipped bit, it loads other weights than
    were saved. So the whole file is read once before the body runs.

    Args:
        path: the file that the body loads.
        verify_checksums: False leaves out that reading, where another process does it.

    Raises:
        DamagedCheckpointError: if the file is truncated or overwritten.
        UnusableCheckpointError: if safe loading refuses the file.
    """
    path = Path(path)
    if verify_checksums and path.is_file() and not is_complete(path):
        raise DamagedCheckpointError(_advise(path))
    try:
        yield
    except (EOFError, pickle.UnpicklingError) as error:
        # torch's own message says how to load the file unsafely, which runs the code in it.
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = (
            f"it holds {refused[1]}, which could run code"
            if refused
            else "it is not a complete pickle of plain data"
        )
        raise UnusableCheckpointError(f"{path} was not loaded: {reason}") from error
    except RuntimeError as error:
        if "PytorchStreamReader" in str(error):  # the headers of records have no checksums
            raise DamagedCheckpointError(_advise(path)) from error
        raise


def _advise(damaged: Path) -> str:
    others = set(damaged.parent.glob("checkpoint*.pt")) - {damaged}
    newest_first = sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
    newest_complete = next(filter(is_complete, newest_first), None)
    if newest_complete is None:
        remedy = "its folder has no complete checkpoint, so delete the file and train again"
    else:
        remedy = (
            f"the newest complete checkpoint in its folder is {newest_complete}, so delete the "
            f"damaged file and use that one (to resume training: --restore-file {newest_complete})"
        )
    return f"the checkpoint {damaged} is damaged (truncated or overwritten); {remedy}"


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; at the end, it takes the place of ``path``.

    The file is replaced in one step, so that a reader, or a run after a kill, finds the old content
    or the new one. Where the body raises an exception, what it wrote is removed and ``path`` stays
    as it was. The path that is yielded keeps the suffix, since libraries choose formats by it.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
