"""Process large text files in parallel: chunks of lines go to a pool, results come back in order.

Memory does not grow with the files, as only a few chunks are in memory at a time.
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

CHUNK = 1000  # lines that a worker gets at a time
AHEAD = 4  # chunks per worker that are read before the first result is taken
SECONDS_BETWEEN_LINES = 30  # between two lines of progress, where there is no terminal for a bar

T = TypeVar("T")
Chunk = TypeVar("Chunk")


class ForkSafeBar(tqdm):
    """A progress bar without tqdm's monitor thread: workers are forked while the bar exists."""

    monitor_interval = 0


def end_with_parent(parent: int) -> None:
    """Make this worker ignore Ctrl-C, and end when process ``parent`` ends, even by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the signal was set
        os._exit(1)


def map_in_order(
    function: Callable[[Chunk], T], chunks: Iterable[Chunk], workers: int
) -> Iterator[T]:
    """Call ``function`` on each chunk in a pool of processes; yield results in order of the chunks.

    At most ``AHEAD * workers`` chunks are read before the first result is taken.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, end_with_parent, (os.getpid(),)) as pool:
        waiting = deque()
        for chunk in chunks:
            waiting.append(pool.submit(function, chunk))
            if len(waiting) == AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_line_chunks(*paths: Path) -> Iterator[list[bytes]]:
    """Read files one after the other in chunks of lines, which end at line feeds only."""
    for path in paths:
        with path.open("rb") as file:
            while lines := list(islice(file, CHUNK)):
                yield lines


def read_pair_chunks(
    source: BinaryIO, target: BinaryIO, corpus: str
) -> Iterator[list[list[bytes]]]:
    """Read two files side by side in chunks of lines: ``[source lines, target lines]``.

    Raises:
        BadInput: if one file has more lines than the other; the message names the ``corpus``.
    """
    done = 0
    while True:
        chunk = [list(islice(file, CHUNK)) for file in (source, target)]
        if len(chunk[0]) != len(chunk[1]):
            end = done + min(map(len, chunk))
            raise BadInput(f"one side of {corpus} ends after {end} lines and the other does not")
        if not chunk[0]:
            return
        yield chunk
        done += len(chunk[0])


def show_progress(
    results: Iterable[T], task: str, count_lines: Callable[[T], int], total: int | None = None
) -> Iterator[T]:
    """Pass ``results`` on and show progress: a bar on a terminal, else a line now and then.

    Args:
        results: from `map_in_order`.
        task: name of the work, for the messages.
        count_lines: returns how many lines a result stands for.
        total: expected number of lines, where it is known.
    """
    started = shown = time.monotonic()
    terminal, done, of_total = sys.stderr.isatty(), 0, f" of {total:,}" if total else ""
    with ForkSafeBar(
        desc=task, total=total, unit=" lines", unit_scale=True, leave=False, disable=not terminal
    ) as bar:
        for result in results:
            yield result
            lines = count_lines(result)
            done += lines
            bar.update(lines)
            now = time.monotonic()
            if not terminal and now - shown >= SECONDS_BETWEEN_LINES:
                shown = now
                rate = done / (now - started)
                say(f"{task}: {done:,}{of_total} lines, {rate:,.0f} lines per second")
    seconds = time.monotonic() - started
    say(f"{task}: {done:,} lines in {seconds:,.1f} s, {done / seconds:,.0f} lines per second")
