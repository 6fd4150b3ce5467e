"""Lines of large files, handed in chunks to a pool of processes; results in their order; progress.

Memory does not grow with the files: few chunks are under way at a time.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

from tqdm import tqdm

from scripts.lib.command_line import BadInput, say

CHUNK = 1000  # lines that a worker is given at a time
AHEAD = 4  # chunks under way for each worker
SECONDS_BETWEEN_LINES = 30  # of progress, where there is no terminal for a bar

T = TypeVar("T")
Chunk = TypeVar("Chunk")


def follow(parent: int) -> None:
    """Leave Ctrl-C to the parent process, and end with it, even where it is killed outright."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before this process could ask to be told
        os._exit(1)


def in_order(function: Callable[[Chunk], T], chunks: Iterable[Chunk], workers: int) -> Iterator[T]:
    """`function` of each chunk, computed by `workers` processes, in the order of the chunks.

    No more than AHEAD chunks a worker are read before the first result is taken.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, follow, (os.getpid(),)) as pool:
        waiting = deque()
        for chunk in chunks:
            waiting.append(pool.submit(function, chunk))
            if len(waiting) == AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def line_chunks(*paths: Path) -> Iterator[list[bytes]]:
    """The lines of these files, one file after the other, broken at line feeds only."""
    for path in paths:
        with path.open("rb") as file:
            while lines := list(islice(file, CHUNK)):
                yield lines


def pair_chunks(source: BinaryIO, target: BinaryIO, what: str) -> Iterator[list[list[bytes]]]:
    """The lines of two files side by side; they must be equally many."""
    done = 0
    while True:
        chunk = [list(islice(file, CHUNK)) for file in (source, target)]
        if len(chunk[0]) != len(chunk[1]):
            ends = done + min(map(len, chunk))
            raise BadInput(f"one side of {what} ends after {ends} lines and the other goes on")
        if not chunk[0]:
            return
        yield chunk
        done += len(chunk[0])


def shown(
    results: Iterable[T], what: str, size: Callable[[T], int], total: int | None = None
) -> Iterator[T]:
    """Pass `results` on, with a bar on a terminal and a line now and then elsewhere."""
    started = told = time.monotonic()
    terminal, done, of_total = sys.stderr.isatty(), 0, f" of {total:,}" if total else ""
    tqdm.monitor_interval = 0  # its thread would be there when the workers are forked
    with tqdm(
        desc=what, total=total, unit=" lines", unit_scale=True, leave=False, disable=not terminal
    ) as bar:
        for result in results:
            yield result
            done += size(result)
            bar.update(size(result))
            now = time.monotonic()
            if not terminal and now - told >= SECONDS_BETWEEN_LINES:
                told = now
                rate = done / (now - started)
                say(f"{what}: {done:,}{of_total} lines, {rate:,.0f} a second")
    seconds = time.monotonic() - started
    say(f"{what}: {done:,} lines in {seconds:,.1f} s, {done / seconds:,.0f} a second")
