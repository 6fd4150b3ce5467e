"""Faults inside a training, which a test causes at a moment that it chooses.

`OutOfMemory` and `NotANumber` prepare a command of `tests.helpers.forked`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from revcol_nlp.columns.isotropic import IsotropicLevel

FORWARD, REBUILDING, BACKWARD = "forward", "rebuilding", "backward"


@contextmanager
def out_of_memory(where: str, level: int) -> Iterator[list[str]]:
    """Let memory run out once inside the context, in the ``level``-th level of a pass.

    Args:
        where: ``forward``; ``rebuilding``, when the backward pass runs a level again, which plain
            columns never do; or ``backward``, in the gradient of a level.
        level: counted from 1, over all levels that run in that pass.

    Yields:
        a list, which receives ``where`` when memory has run out.
    """
    happened: list[str] = []
    seen = 0

    def count(_: Tensor | None = None) -> None:
        nonlocal seen
        seen += 1
        if seen == level:
            happened.append(where)
            raise torch.OutOfMemoryError("out of memory, as the test asks")

    def hook(module: nn.Module, _: Any, output: Tensor) -> None:
        if not isinstance(module, IsotropicLevel) or not module.training:
            return
        in_backward = torch._C._current_graph_task_id() != -1
        if where == BACKWARD:
            output.register_hook(count)
        elif in_backward == (where == REBUILDING):
            count()

    handle = register_module_forward_hook(hook)
    try:
        yield happened
    finally:
        handle.remove()


@dataclass(frozen=True)
class OutOfMemory:
    """Memory runs out three times in a run of fairseq-train, of ``reversible`` columns or plain."""

    reversible: bool

    def __call__(self) -> None:
        from fairseq.trainer import Trainer

        original, attempts = Trainer.train_step, 0
        places = {
            2: (FORWARD, 5),
            4: (REBUILDING if self.reversible else BACKWARD, 2),
            6: (BACKWARD, 6),
        }

        def train_step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts not in places:
                return original(trainer, *args, **kwargs)
            with out_of_memory(*places[attempts]) as happened:
                done = original(trainer, *args, **kwargs)
            assert happened and done is None
            return done

        Trainer.train_step = train_step


@dataclass(frozen=True)
class NotANumber:
    """In the update number ``when`` of a run of fairseq-train, all embeddings are nan."""

    when: int

    def __call__(self) -> None:
        from fairseq.trainer import Trainer

        original, attempts = Trainer.train_step, 0

        def train_step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
            nonlocal attempts
            attempts += 1
            if attempts != self.when:
                return original(trainer, *args, **kwargs)
            model, scale = trainer.get_model(), trainer.optimizer.scaler.loss_scale
            before = [p.clone() for p in model.parameters()]
            handle = model.encoder.embed_tokens.register_forward_hook(lambda *a: a[-1] * torch.nan)
            done = original(trainer, *args, **kwargs)
            handle.remove()
            assert done is None
            assert all(map(torch.equal, before, model.parameters()))
            assert trainer.optimizer.scaler.loss_scale == scale / 2
            return done

        Trainer.train_step = train_step


def without_waiting() -> None:
    """fairseq waits seconds before it tries to write a file again."""
    time.sleep = lambda seconds: None
