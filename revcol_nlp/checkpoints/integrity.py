"""Files that are complete or not there: writing in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
