"""Killing a training at a moment of one's choice, as kill -9 does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook

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
    """Moments of a run that has so many ``events`` of each kind, each kind in turn."""
    while True:
        for kind in (STEP, WRITE, VALIDATION):
            yield Kill(kind, chance.randrange(events[kind]), chance.random())


class Watch:
    """Counts the events of the process it is called in, and kills that at the moment ``kill``.

    Args:
        counts: receives the number of events of each kind and the seconds of a run that ends.
        kill: never, if None.
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
