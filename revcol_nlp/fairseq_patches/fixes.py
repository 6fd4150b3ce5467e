"""What fairseq itself gets wrong or loses silently, set right where the plugin is loaded.

Each fix replaces one function of fairseq by a function that receives the original. So does
``--init-decoder-from``, since only fairseq's trainer knows whether a training begins.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.iterators import EpochBatchIterator
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema.ema import EMA
from fairseq.modules import checkpoint_activations
from fairseq.tasks import FairseqTask
from fairseq.trainer import Trainer
from omegaconf import DictConfig, open_dict

from ..checkpoints.contents import (
    UnusableCheckpointError,
    allow_broadcast_globals,
    allow_fairseq_globals,
    check_contents,
    explain_damage,
)
from ..checkpoints.fingerprint import DictionaryMismatchError
from .commands import loaded_command
from .datasets import item_checked, load_checked
from .distributed import ddp_on_any_device, join_before_main, join_inside_main
from .generation import check_search, leave_bad_lines_blank, set_bad_lines_aside
from .saving import check_folder, copy_whole, save_from_the_start, save_whole

_applied = False
_presets: Mapping[str, Mapping[str, Any]] = {}


def apply(presets: Mapping[str, Mapping[str, Any]], begin_with_decoder: Callable) -> None:
    """Install every fix; calling it again does nothing."""
    global _applied, _presets
    if _applied:
        return
    _applied, _presets = True, presets
    allow_fairseq_globals()
    allow_broadcast_globals()
    _replace(checkpoint_utils, "load_checkpoint_to_cpu", _load_or_explain)
    _replace(checkpoint_utils, "torch_persistent_save", save_whole)
    _replace(checkpoint_utils, "_torch_persistent_save", save_from_the_start)
    _replace(checkpoint_utils, "verify_checkpoint_directory", check_folder)
    _replace(PathManager, "copy", copy_whole)
    _replace(data_utils, "load_indexed_dataset", load_checked)
    _replace(MMapIndexedDataset, "__getitem__", item_checked)
    _replace(FairseqTask, "build_generator", check_search)
    _replace(Trainer, "train_step", _skip_an_overflow_without_gpu)
    _replace(Trainer, "load_checkpoint", _say_what_does_not_fit)
    _replace(Trainer, "load_checkpoint", begin_with_decoder)
    _replace(Trainer, "state_dict", _keep_the_languages)
    _replace(EMA, "restore", _keep_what_is_not_averaged)
    _replace(Trainer, "get_train_iterator", _resume_with_the_same_batches)
    _replace(checkpoint_activations, "_checkpointed_forward", _recompute_under_autocast)

    _replace(EpochBatchIterator, "state_dict", _note_the_processes)
    _replace(EpochBatchIterator, "load_state_dict", _go_on_with_other_processes)
    _replace(data_utils, "batch_by_size", _batch_the_remainder_too)
    _replace(distributed_utils, "call_main", join_before_main)
    _replace(distributed_fairseq_model, "DistributedDataParallel", ddp_on_any_device)
    if train := loaded_command("fairseq_cli.train"):
        _replace(Trainer, "save_checkpoint", _save_early_stopping)
        _replace(Trainer, "load_checkpoint", _load_early_stopping)
        if loaded_command("fairseq_cli.hydra_train"):
            _replace(train, "add_defaults", join_inside_main)
            _replace(train, "add_defaults", _fill_the_preset)
    if interactive := loaded_command("fairseq_cli.interactive"):
        _replace(interactive, "make_batches", set_bad_lines_aside)
        _replace(FairseqTask, "inference_step", leave_bad_lines_blank)


def _replace(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Put ``replacement`` in the place of ``owner.name``, which it gets as its first argument."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    is_static = isinstance(vars(owner)[name], staticmethod)
    setattr(owner, name, staticmethod(replaced) if is_static else replaced)


# Checkpoints


def _load_or_explain(original: Callable, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    # A damaged file is reported as "failed finding central directory".
    with explain_damage(path):
        try:
            state = original(path, *args, **kwargs)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError):
            # fairseq's errors at what is no checkpoint are of all kinds, and name nothing.
            check_contents(torch.load(path, map_location="cpu", weights_only=True), path)
            raise
    check_contents(state, path)
    return state


def _say_what_does_not_fit(
    original: Callable, self: Trainer, filename: str, *args: Any, **kwargs: Any
) -> Any:
    # The trainer turns every error into "please ensure that the architectures match".
    try:
        return original(self, filename, *args, **kwargs)
    except Exception as error:
        if isinstance(error.__context__, DictionaryMismatchError | UnusableCheckpointError):
            raise type(error.__context__)(f"{filename}: {error.__context__}") from None
        raise


def _keep_the_languages(original: Callable, self: Trainer) -> dict[str, Any]:
    # fairseq guesses the languages from the names of the data's files, and keeps no note of them: a
    # model cannot be loaded with its dictionaries alone.
    state = original(self)
    task = state["cfg"]["task"]
    if isinstance(task, dict) and "source_lang" in task:
        task.update(source_lang=self.task.cfg.source_lang, target_lang=self.task.cfg.target_lang)
    return state


def _keep_what_is_not_averaged(
    original: Callable, self: EMA, state_dict: dict[str, Any], **kwargs: Any
) -> None:
    # Each step of --store-ema loads the averaged tensors alone, so that the fingerprints, which are
    # not averaged, would be reported as missing.
    original(self, {**self.model.state_dict(), **state_dict}, **kwargs)


# Batches, and resuming


def _batch_the_remainder_too(
    original: Callable, indices: np.ndarray, *args: Any, **kwargs: Any
) -> list[np.ndarray]:
    # Sentences come sorted by length and are cut into batches in order. fairseq then throws the
    # last batch, the longest sentences, away if its size is no multiple of
    # --required-batch-size-multiple, and fails on an empty list.
    if not isinstance(indices, np.ndarray):
        indices = np.fromiter(indices, dtype=np.int64)
    if len(indices) == 0:
        return []
    batches = original(indices, *args, **kwargs)
    batched = sum(map(len, batches))
    return batches if batched == len(indices) else [*batches, indices[batched:]]


def _resume_with_the_same_batches(
    original: Callable,
    self: Trainer,
    epoch: int,
    combine: bool = True,
    load_dataset: bool = True,
    **kwargs: Any,
) -> Any:
    # Batches are made once, in the epoch that a process begins with, from the seed and the number
    # of that epoch: a run resumed in epoch 3 goes on with others than the run that was stopped had
    # since epoch 1. Where a function makes the batches anew for each epoch, all is well.
    kept = self.task.dataset_to_epoch_iter
    known = list(kept.values())
    iterator = original(self, epoch, combine, load_dataset, **kwargs)
    newly_kept = iterator in kept.values() and iterator not in known
    if epoch == 1 or not newly_kept or callable(iterator.batch_sampler):
        return iterator
    del kept[iterator.dataset]
    iterator = original(self, 1, combine, load_dataset=False, **kwargs)
    iterator.dataset.set_epoch(epoch)
    iterator.epoch = epoch
    return iterator


def _note_the_processes(original: Callable, self: EpochBatchIterator) -> dict[str, Any]:
    return {**original(self), "num_shards": self.num_shards, "batches": _batches(self)}


def _batches(iterator: EpochBatchIterator) -> int | None:
    # Made anew for each epoch, they are not those that the checkpoint is about.
    return None if callable(iterator.batch_sampler) else len(iterator.frozen_batches)


def _go_on_with_other_processes(
    original: Callable, self: EpochBatchIterator, state: dict[str, Any]
) -> None:
    """Raises ValueError where what is left cannot go on from the place in the epoch."""
    # The place is counted in the batches of one process: with other batches, or another number of
    # processes, sentences would be seen again or left out.
    processes = state.get("num_shards", self.num_shards)
    batches = state.get("iterations_in_epoch", 0) * processes
    before, now = state.get("batches"), _batches(self)
    if batches and None not in (before, now) and before != now:
        raise ValueError(
            f"the checkpoint was saved in the middle of epoch {state['epoch']} of {before} "
            f"batches, of which there are {now} now: go on with the --max-tokens, --batch-size and "
            "data it had, or begin the epoch anew with --reset-dataloader"
        )
    if batches % self.num_shards:
        raise ValueError(
            f"the checkpoint was saved by {processes} processes after {batches} batches of epoch "
            f"{state['epoch']}, which {self.num_shards} processes cannot have had: take a number "
            f"of processes that divides {batches}, or begin the epoch anew with --reset-dataloader"
        )
    original(self, {**state, "iterations_in_epoch": batches // self.num_shards})


def _early_stopping() -> dict[str, Any]:
    # --patience counts in the attributes of a function, which fairseq keeps in no checkpoint: a
    # resumed run would count from zero and end later.
    return vars(loaded_command("fairseq_cli.train").should_stop_early)


def _save_early_stopping(
    original: Callable, self: Trainer, filename: str, extra_state: dict[str, Any]
) -> str | None:
    return original(self, filename, {**extra_state, "early_stopping": dict(_early_stopping())})


def _load_early_stopping(
    original: Callable, self: Trainer, *args: Any, reset_meters: bool = False, **kwargs: Any
) -> dict[str, Any] | None:
    extra_state = original(self, *args, reset_meters=reset_meters, **kwargs)
    if extra_state is not None and not reset_meters:
        _early_stopping().update(extra_state.get("early_stopping", {}))
    return extra_state


# Checkpointed activations


def _recompute_under_autocast(
    original: Callable, forward: Callable, offload_to_cpu: bool, *args: Any, **kwargs: Any
) -> Any:
    # The backward pass, which recomputes, lies outside of autocast: under --amp it would compute
    # other activations than the forward pass, in float32, and other gradients.
    kind = next(x for x in args if isinstance(x, torch.Tensor)).device.type
    autocast = dict(
        device_type=kind,
        dtype=torch.get_autocast_dtype(kind),
        enabled=torch.is_autocast_enabled(kind),
    )

    def as_it_ran(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(**autocast):
            return forward(*args, **kwargs)

    return original(as_it_ran, offload_to_cpu, *args, **kwargs)


# Half precision


def _skip_an_overflow_without_gpu(
    original: Callable, self: Trainer, *args: Any, **kwargs: Any
) -> dict[str, Any] | None:
    # With --fp16 an update whose gradients overflow is skipped, and to count for nothing in the
    # logs fairseq puts a zero on the GPU: where there is none, the run ends.
    try:
        return original(self, *args, **kwargs)
    except (AssertionError, RuntimeError) as error:
        if self.cuda or not isinstance(error.__context__, OverflowError):
            raise
        self.zero_grad()
        return None


# fairseq-hydra-train


def _fill_the_preset(original: Callable, cfg: DictConfig) -> None:
    # With --arch fairseq calls the architecture's function. fairseq-hydra-train does not: it takes
    # the defaults of the model's dataclass, whichever architecture is named.
    preset = _presets.get(cfg.model.get("_name"))
    if preset is not None:
        with open_dict(cfg.model):
            for name, value in preset.items():
                cfg.model.setdefault(name, value)
    original(cfg)
