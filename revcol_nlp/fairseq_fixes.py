"""What fairseq itself gets wrong or loses silently, set right where the plugin is loaded.

Each fix replaces one function of fairseq by a function that receives the original. So does
``--init-decoder-from``, since only fairseq's trainer knows whether a training begins.
"""

import functools
import importlib.util
import itertools
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.data.iterators import EpochBatchIterator


from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.models.ema.ema import EMA
from fairseq.modules import checkpoint_activations
from fairseq.tasks import FairseqTask
from fairseq.token_generation_constraints import pack_constraints
from fairseq.trainer import Trainer
from omegaconf import DictConfig, open_dict
from torch import nn

from .config import PRESETS
from .fingerprint import DictionaryMismatchError
from .init_decoder import begin_with_decoder
from .safe_data import item_checked, load_checked
from .safe_loading import (
    UnusableCheckpointError,
    allow_broadcast_globals,
    allow_fairseq_globals,
    check_contents,
    explain_damage,
)
from .safe_saving import check_folder, copy_whole, save_from_the_start, save_whole


@functools.cache
def apply() -> None:
    """Install every fix; calling it again does nothing."""
    allow_fairseq_globals()
    allow_broadcast_globals()
    _replace(checkpoint_utils, "load_checkpoint_to_cpu", _load_or_explain)
    _replace(checkpoint_utils, "torch_persistent_save", save_whole)
    _replace(checkpoint_utils, "_torch_persistent_save", save_from_the_start)
    _replace(checkpoint_utils, "verify_checkpoint_directory", check_folder)
    _replace(PathManager, "copy", copy_whole)
    _replace(data_utils, "load_indexed_dataset", load_checked)
    _replace(MMapIndexedDataset, "__getitem__", item_checked)
    _replace(FairseqTask, "build_generator", _check_search)
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
    _replace(distributed_utils, "call_main", _join_before_main)
    _replace(distributed_fairseq_model, "DistributedDataParallel", _ddp_on_any_device)
    if train := _loaded_command("fairseq_cli.train"):
        _replace(Trainer, "save_checkpoint", _save_early_stopping)
        _replace(Trainer, "load_checkpoint", _load_early_stopping)
        if _loaded_command("fairseq_cli.hydra_train"):
            _replace(train, "add_defaults", _join_inside_main)
            _replace(train, "add_defaults", _fill_the_preset)
    if interactive := _loaded_command("fairseq_cli.interactive"):
        _replace(interactive, "make_batches", _set_bad_lines_aside)
        _replace(FairseqTask, "inference_step", _leave_bad_lines_blank)


def _replace(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Put ``replacement`` in the place of ``owner.name``, which it gets as its first argument."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    is_static = isinstance(vars(owner)[name], staticmethod)
    setattr(owner, name, staticmethod(replaced) if is_static else replaced)


def _loaded_command(name: str) -> ModuleType | None:
    """The module of a fairseq command, under whichever name (``python -m``) it was loaded."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return main if spec is not None and spec.name == name else sys.modules.get(name)


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
    return {**original(self), "num_shards": self.num_shards}


def _go_on_with_other_processes(
    original: Callable, self: EpochBatchIterator, state: dict[str, Any]
) -> None:
    """Raises ValueError where the number of processes cannot go on from the place in the epoch."""
    # The place is counted in the batches of one process: another number of processes would see
    # batches again, or leave some out.
    processes = state.get("num_shards", self.num_shards)
    batches = state.get("iterations_in_epoch", 0) * processes
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
    return vars(_loaded_command("fairseq_cli.train").should_stop_early)


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


# Translating


def _check_search(original: Callable, self: FairseqTask, models: Any, args: Any, *rest, **kwargs):
    """Raises ValueError for what makes no search."""
    for name in ("beam", "nbest"):
        if getattr(args, name, 1) < 1:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} must be at least 1, got {getattr(args, name)}")
    for name in ("lenpen", "temperature", "max_len_a"):
        if not math.isfinite(getattr(args, name, 1)):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} must be finite, got {getattr(args, name)}")
    return original(self, models, args, *rest, **kwargs)


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


# Several processes


def _join_before_main(original: Callable, cfg: DictConfig, main: Callable, **kwargs: Any) -> Any:
    """Raises ValueError where fairseq would start one process per GPU and there is no GPU."""
    if cfg.common.bf16 and importlib.util.find_spec("torch_xla") is None:
        # --bf16 asks for a TPU as well, in each part of the configuration that has one.
        for part in cfg.values():
            if isinstance(part, DictConfig) and "tpu" in part:
                part.tpu = False
    if main is getattr(_loaded_command("fairseq_cli.train"), "main", None):
        _check_ddp_backend(cfg)
        _join_torchrun(cfg)
    distributed = cfg.distributed_training
    if (
        distributed.distributed_init_method is not None
        and not distributed.distributed_no_spawn
        and not cfg.common.tpu
        and torch.cuda.device_count() == 0
    ):
        # fairseq starts no process, trains nothing and exits with success.
        raise ValueError(
            "--distributed-init-method starts one process per GPU, and there is no GPU: start the "
            "processes with torchrun and leave the option out, or add --distributed-no-spawn"
        )
    return original(cfg, main, **kwargs)


def _join_inside_main(original: Callable, cfg: DictConfig) -> None:
    # fairseq-hydra-train imports the plugin only inside of its main, past _join_before_main. This
    # is the first function that main hands the whole configuration.
    original(cfg)
    _check_ddp_backend(cfg)
    if not torch.distributed.is_initialized() and _join_torchrun(cfg):
        if not _on_cpu(cfg):
            torch.cuda.set_device(cfg.distributed_training.device_id)
        distributed_utils.distributed_init(cfg)


def _fill_the_preset(original: Callable, cfg: DictConfig) -> None:
    # With --arch fairseq calls the architecture's function. fairseq-hydra-train does not: it takes
    # the defaults of the model's dataclass, whichever architecture is named.
    preset = PRESETS.get(cfg.model.get("_name"))
    if preset is not None:
        with open_dict(cfg.model):
            for name, value in preset.items():
                cfg.model.setdefault(name, value)
    original(cfg)


def _check_ddp_backend(cfg: DictConfig) -> None:
    """Raises ValueError for one that cannot work."""
    # fairseq asks for fairscale, which then fails without a word about the CPU.
    backend = cfg.distributed_training.ddp_backend
    if _on_cpu(cfg) and backend in ("fully_sharded", "slowmo"):
        raise ValueError(
            f"--ddp-backend {backend} needs a GPU (and fairscale): on the CPU take pytorch_ddp, "
            "the default, or legacy_ddp"
        )


def _join_torchrun(cfg: DictConfig) -> bool:
    """Make this process one of those that torchrun started; False where it did not start several.

    fairseq looks for torchrun only where it sees more than one GPU. Elsewhere each process
    silently trains a model of its own, all in one folder.
    """
    distributed = cfg.distributed_training
    started_by_torchrun = {"MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"} <= os.environ.keys()
    if (
        not started_by_torchrun
        or int(os.environ.get("WORLD_SIZE", 1)) == 1
        or distributed.distributed_init_method is not None
        or distributed.pipeline_model_parallel
        or cfg.common.tpu
    ):
        return False
    distributed.distributed_init_method = "env://"
    distributed.distributed_world_size = int(os.environ["WORLD_SIZE"])
    distributed.distributed_rank = int(os.environ["RANK"])
    distributed.device_id = int(os.environ["LOCAL_RANK"]) % max(1, torch.cuda.device_count())
    distributed.distributed_no_spawn = True
    if _on_cpu(cfg):
        distributed.distributed_backend = "gloo"
    return True


def _on_cpu(cfg: DictConfig) -> bool:
    return cfg.common.cpu or not torch.cuda.is_available()


def _ddp_on_any_device(
    original: Callable, module: nn.Module, device_ids: Any, output_device: Any, **kwargs: Any
) -> nn.Module:
    # --ddp-backend pytorch_ddp, the default, names a GPU even with --cpu.
    if next(module.parameters()).device.type == "cpu":
        device_ids = output_device = None
    with warnings.catch_warnings():  # of an option that fairseq names, in the name of this file
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        return original(module, device_ids=device_ids, output_device=output_device, **kwargs)


# fairseq-interactive

_line_ids = itertools.count()  # over all buffers of the run, as fairseq-interactive counts


def _set_bad_lines_aside(
    original: Callable,
    lines: list[str],
    cfg: DictConfig,
    task: FairseqTask,
    max_positions: Any,
    encode_fn: Callable[[str], str],
) -> Iterator[Any]:
    """Yield the batches of the lines that can be translated, then each other one by itself.

    An over-long line ends the whole run, and an empty one is translated into whatever the model
    makes of nothing. Here each gets an empty translation of score -inf, so that there is one
    translation per line, in order, and a sentence on stderr, since the translations go to stdout.
    """
    if type(task).inference_step is not FairseqTask.inference_step:
        yield from original(lines, cfg, task, max_positions, encode_fn)
        return
    ids = list(itertools.islice(_line_ids, len(lines)))
    encode = functools.cache(encode_fn)  # each line is encoded twice
    constrained = bool(cfg.generation.constraints)
    sources = [line.split("\t")[0] for line in lines] if constrained else lines
    tokens, lengths = task.get_interactive_tokens_and_lengths(sources, encode)
    longest = longest_source(max_positions, cfg.dataset.max_tokens)
    good = [i for i, length in enumerate(lengths) if 1 < length <= longest]  # 1: end of sentence
    if good:
        for batch in original([lines[i] for i in good], cfg, task, max_positions, encode):
            yield batch._replace(ids=torch.tensor(good)[batch.ids])
    for i in sorted(set(range(len(lines))) - set(good)):
        fault = "is empty" if lengths[i] == 1 else f"has {lengths[i]} tokens, over {longest:g}"
        print(f"line {ids[i] + 1} {fault}: its translation H-{ids[i]} is empty", file=sys.stderr)
        yield SimpleNamespace(
            ids=torch.tensor([i]),
            src_tokens=tokens[i].unsqueeze(0),
            src_lengths=torch.tensor([0]),  # tells _leave_bad_lines_blank
            constraints=pack_constraints([[]]) if constrained else None,
        )


def longest_source(max_positions: Any, max_tokens: int | None) -> float:
    """``max_positions`` is a number, or a pair of numbers for source and target, or None."""
    source = max_positions[0] if isinstance(max_positions, Sequence) else max_positions
    return min(limit for limit in (source, max_tokens, math.inf) if limit is not None)


def _leave_bad_lines_blank(
    original: Callable, self: FairseqTask, generator: Any, models: Any, sample: Any, **kwargs: Any
) -> list[list[dict[str, Any]]]:
    if sample["net_input"]["src_lengths"].any():
        return original(self, generator, models, sample, **kwargs)
    nothing = torch.empty(0)
    blank = {"tokens": nothing, "score": -math.inf, "alignment": [], "positional_scores": nothing}
    return [[blank]]
