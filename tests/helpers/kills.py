"""Kill a training at a chosen moment, as kill -9 does, and compare what it ends with."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.helpers.forked import Ended, Forked

STEP, VALIDATION, WRITE = "step", "validation", "write"


@dataclass(frozen=True)
class Kill:
    """A moment: before the ``number``-th event of its kind.

    Attributes:
        kind: what is counted. ``step``: calls of modules in training, which forward passes and the
            rebuilding of columns make, and of optimisers. ``validation``: calls of modules in
            evaluation. ``write``: files saved, copied, renamed, linked and removed.
        number: from 0.
        share: of the bytes that are on the disk by then, for a file that is saved or copied.
        signal: SIGKILL, or one that the process may handle.
    """

    kind: str
    number: int
    share: float
    signal: int = signal.SIGKILL


def random_kills(chance: random.Random, events: Mapping[str, int]) -> Iterator[Kill]:
    """Yield random moments of a run with so many ``events`` of each kind, each kind in turn."""
    while True:
        for kind in (STEP, WRITE, VALIDATION):
            yield Kill(kind, chance.randrange(events[kind]), chance.random())


class Watch:
    """Counts the events of the process in which it is called, and kills the process at ``kill``.

    Args:
        counts: a file that receives the number of events of each kind and the seconds of the run.
        kill: the moment; None for never.
    """

    def __init__(self, counts: Path | None = None, kill: Kill | None = None):
        self.counts, self.kill = counts, kill

    def __call__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.begun = time.monotonic()
        # As at a terminal: shells have what they run in the background ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.counts is not None:
            Finalize(None, self._write_counts, exitpriority=0)
        register_module_forward_pre_hook(self._module)
        register_optimizer_step_pre_hook(self._optimizer)
        torch.save = partial(self._save, torch.save)
        shutil.copyfile = partial(self._copy, shutil.copyfile)
        for name in ("rename", "replace", "link", "unlink", "remove"):
            setattr(os, name, partial(self._file, getattr(os, name)))

    def _event(self, kind: str) -> bool:
        """Whether it is a write to be killed in."""
        kill, number = self.kill, self.seen[kind]
        self.seen[kind] += 1
        if kill is None or (kind, number) != (kill.kind, kill.number):
            return False
        if kind == WRITE and kill.signal == signal.SIGKILL:
            return True
        os.kill(os.getpid(), kill.signal)
        return False

    def _module(self, module: nn.Module, _: Any) -> None:
        self._event(STEP if module.training else VALIDATION)

    def _write_counts(self) -> None:
        seconds = time.monotonic() - self.begun
        self.counts.write_text(json.dumps(self.seen | {"seconds": seconds}))

    def _optimizer(self, *_: Any) -> None:
        self._event(STEP)

    def _save(self, original: Callable, content: object, target: Any, *args: Any, **kw: Any) -> Any:
        if not self._event(WRITE):
            return original(content, target, *args, **kw)
        whole = BytesIO()
        original(content, whole, *args, **kw)
        self._tear(whole.getvalue(), target)

    def _copy(self, original: Callable, source: Any, target: Any, **kw: Any) -> Any:
        if not self._event(WRITE):
            return original(source, target, **kw)
        self._tear(Path(source).read_bytes(), target)

    def _tear(self, whole: bytes, target: Any) -> NoReturn:
        part = whole[: round(self.kill.share * len(whole))]
        if isinstance(target, str | os.PathLike):
            Path(target).write_bytes(part)
        else:
            target.write(part)
            target.flush()
        die()

    def _file(self, original: Callable, *args: Any, **kw: Any) -> Any:
        killed = self._event(WRITE)
        if killed and self.kill.share < 0.5:
            die()
        done = original(*args, **kw)
        if killed:
            die()
        return done


def die() -> NoReturn:
    """Ends this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("outlived SIGKILL")


KILLS, BY_DEFAULT, BY_THE_CLOCK = 15, 3, 5

# The numbers of the kills that a test tries; by default one of each kind.
NUMBERS = [
    pytest.param(number, marks=() if number < BY_DEFAULT else pytest.mark.slow)
    for number in range(KILLS)
]


class Training:
    """A command that a test runs several times, each time with another output folder.

    Args:
        command: the command, as for `Forked`.
        args: its arguments.
        option: the option that takes the output folder.
        folder: the folder of a first run, which nothing disturbs.
    """

    def __init__(self, command: str, *args: object, option: str, folder: Path):
        self.command, self.args, self.option, self.folder = command, args, option, folder
        counts = folder / "counts"
        ended = self.run(folder, Watch(counts))
        assert ended.status == 0, ended.output[-3000:]
        self.events = json.loads(counts.read_text())
        self.kills = list(islice(random_kills(random.Random(0), self.events), KILLS))

    def start(self, folder: Path, prepare: Callable[[], None] | None = None) -> Forked:
        command = (self.command, *self.args, self.option, folder / "run")
        return Forked(*command, folder=folder, prepare=prepare)

    def run(self, folder: Path, prepare: Callable[[], None] | None = None) -> Ended:
        return self.start(folder, prepare).end()

    def kill_again_and_again(self, folder: Path, assert_resumes: Callable[[Path], None]) -> None:
        """Kill runs by the clock, from start-up on, and call ``assert_resumes`` at the end.

        Where a run ended before it was killed, ``assert_resumes`` is called too, and a new run is
        begun in a folder of its own.
        """
        chance, killed, current = random.Random(1), 0, folder
        while killed < BY_THE_CLOCK:
            running = self.start(current)
            running.process.join(chance.uniform(0, self.events["seconds"]))
            running.process.kill()
            if running.end().status == -signal.SIGKILL:
                killed += 1
            else:
                assert_resumes(current)
                current = Path(tempfile.mkdtemp(dir=folder))
        assert_resumes(current)

    def kill_and_check(
        self, number: int, folder: Path, assert_resumes: Callable[[Path], None]
    ) -> None:
        """Kill a run in ``folder`` at one of the random moments, and call ``assert_resumes``."""
        killed = self.run(folder, Watch(kill=self.kills[number]))
        assert killed.status == -signal.SIGKILL, killed.output[-3000:]
        assert_resumes(folder)

    def resume(self, folder: Path) -> tuple[Path, Path]:
        """Run the command again and compare the names of its files with an undisturbed run's.

        Returns:
            the output folders of both.
        """
        ended = self.run(folder)
        assert ended.status == 0, ended.output[-3000:]
        resumed, undisturbed = folder / "run", self.folder / "run"
        assert _list_names(resumed) == _list_names(undisturbed)
        return resumed, undisturbed


def _list_names(folder: Path) -> set[str]:
    # Each process of vision.train leaves a file of its own for TensorBoard.
    return {path.name for path in folder.iterdir() if not path.name.startswith("events.")}
