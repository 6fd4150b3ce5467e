"""Patches of batches: none is dropped, and a resumed training has the same ones.

Each function replaces a function of fairseq, which it gets as ``original``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from fairseq.data.iterators import EpochBatchIterator
from fairseq.trainer import Trainer


def batch_the_remainder(
    original: Callable, indices: np.ndarray, *args: Any, **kwargs: Any
) -> list[np.ndarray]:
    """Replaces ``data_utils.batch_by_size``.

    Sentences come sorted by length and are cut into batches in order. fairseq drops the last batch,
    which has the longest sentences, where its size is not a multiple of
    --required-batch-size-multiple, and fails on an empty list.

    Returns:
        fairseq's batches, and one more with the sentences that are missing in them.
    """
    if not isinstance(indices, np.ndarray):
        indices = np.fromiter(indices, dtype=np.int64)
    if len(indices) == 0:
        return []
    batches = original(indices, *args, **kwargs)
    batched = sum(map(len, batches))
    return batches if batched == len(indices) else [*batches, indices[batched:]]


def resume_with_the_same_batches(
    original: Callable,
    self: Trainer,
    epoch: int,
    combine: bool = True,
    load_dataset: bool = True,
    **kwargs: Any,
) -> EpochBatchIterator:
    """Replaces ``Trainer.get_train_iterator``.

    fairseq makes the batches once, in the epoch that a process begins with, from the seed and the
    number of that epoch. So a training that is resumed in epoch 3 would get other batches than the
    training that it resumes has used since epoch 1. Here, they are made as in epoch 1. Where
    fairseq makes new batches for each epoch, there is nothing to do.
    """
    iterators = self.task.dataset_to_epoch_iter
    known = list(iterators.values())
    iterator = original(self, epoch, combine, load_dataset, **kwargs)
    is_new = iterator in iterators.values() and iterator not in known
    if epoch == 1 or not is_new or callable(iterator.batch_sampler):
        return iterator
    del iterators[iterator.dataset]
    iterator = original(self, 1, combine, load_dataset=False, **kwargs)
    iterator.dataset.set_epoch(epoch)
    iterator.epoch = epoch
    return iterator


def save_number_of_processes(original: Callable, self: EpochBatchIterator) -> dict[str, Any]:
    """Replaces ``EpochBatchIterator.state_dict``."""
    return {**original(self), "num_shards": self.num_shards, "batches": _count_batches(self)}


def resume_with_other_processes(
    original: Callable, self: EpochBatchIterator, state: dict[str, Any]
) -> None:
    """Replaces ``EpochBatchIterator.load_state_dict``.

    fairseq counts the batches that one process has had. With another number of processes, or with
    other batches, sentences would be seen twice or left out.

    Raises:
        ValueError: if the rest of the epoch cannot be given to the processes.
    """
    processes = state.get("num_shards", self.num_shards)
    done = state.get("iterations_in_epoch", 0) * processes
    before, now = state.get("batches"), _count_batches(self)
    if done and None not in (before, now) and before != now:
        raise ValueError(
            f"the checkpoint was saved in the middle of epoch {state['epoch']} of {before} "
            f"batches, and the epoch has {now} batches now: resume with the same --max-tokens, "
            "--batch-size and data, or begin the epoch again with --reset-dataloader"
        )
    if done % self.num_shards:
        raise ValueError(
            f"the checkpoint was saved by {processes} processes after {done} batches of epoch "
            f"{state['epoch']}, which cannot be shared by {self.num_shards} processes: use a "
            f"number of processes that divides {done}, or begin the epoch again with "
            "--reset-dataloader"
        )
    original(self, {**state, "iterations_in_epoch": done // self.num_shards})


def _count_batches(iterator: EpochBatchIterator) -> int | None:
    # Where batches are new in each epoch, those at hand are not the ones of the checkpoint.
    return None if callable(iterator.batch_sampler) else len(iterator.frozen_batches)
