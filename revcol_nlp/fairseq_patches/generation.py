"""Patches of translation: impossible searches are refused, and every line gets an answer.

Each function replaces a function of fairseq, which it gets as ``original``.
"""

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import FairseqTask
from fairseq.token_generation_constraints import pack_constraints
from omegaconf import DictConfig

FINITE = {"len_penalty": "--lenpen", "temperature": "--temperature", "max_len_a": "--max-len-a"}


def check_search_options(
    original: Callable, self: SequenceGenerator, *args: Any, **kwargs: Any
) -> None:
    """Replaces ``SequenceGenerator.__init__``, which tasks call that build generators themselves.

    Raises:
        ValueError: if the options cannot produce a translation.
    """
    given = inspect.signature(original).bind(self, *args, **kwargs).arguments
    if given.get("beam_size", 1) < 1:
        raise ValueError(f"--beam must be at least 1, got {given['beam_size']}")
    for name, option in FINITE.items():
        if not math.isfinite(given.get(name, 1)):
            raise ValueError(f"{option} must be finite, got {given[name]}")
    original(self, *args, **kwargs)


def check_nbest(original: Callable, cfg: DictConfig, main: Callable, **kwargs: Any) -> Any:
    """Replaces ``distributed_utils.call_main``.

    Raises:
        ValueError: if the command would print no translation, or leave one out.
    """
    if cfg.generation.nbest < 1:
        raise ValueError(f"--nbest must be at least 1, got {cfg.generation.nbest}")
    return original(cfg, main, **kwargs)


# How many lines fairseq-interactive has read with a task: it makes one task in each run.
_lines_read: WeakKeyDictionary[FairseqTask, int] = WeakKeyDictionary()


def set_bad_lines_aside(
    original: Callable,
    lines: list[str],
    cfg: DictConfig,
    task: FairseqTask,
    max_positions: Any,
    encode_fn: Callable[[str], str],
) -> Iterator[Any]:
    """Replaces ``make_batches`` in fairseq_cli.interactive.

    An over-long line would end the whole run, and an empty line would be translated. Here, each of
    them gets an empty translation with the score -inf, so that there is one translation per line,
    in order. Translations go to stdout, so a message about the line goes to stderr.

    Yields:
        fairseq's batches of the lines that can be translated, then each other line by itself, with
        ``src_lengths`` of shape (0,), which `leave_bad_lines_blank` looks for.
    """
    if type(task).inference_step is not FairseqTask.inference_step:
        yield from original(lines, cfg, task, max_positions, encode_fn)
        return
    first = _lines_read.get(task, 0)
    _lines_read[task] = first + len(lines)
    encode = functools.cache(encode_fn)  # fairseq encodes each line a second time
    constrained = bool(cfg.generation.constraints)
    sources = [line.split("\t")[0] for line in lines] if constrained else lines
    tokens, lengths = task.get_interactive_tokens_and_lengths(sources, encode)
    longest = longest_source(max_positions, cfg.dataset.max_tokens)
    good = [i for i, length in enumerate(lengths) if 1 < length <= longest]  # 1: end of sentence
    if good:
        for batch in original([lines[i] for i in good], cfg, task, max_positions, encode):
            yield batch._replace(ids=torch.tensor(good)[batch.ids])
    for i in sorted(set(range(len(lines))) - set(good)):
        number = first + i
        fault = "is empty" if lengths[i] == 1 else f"has {lengths[i]} tokens, over {longest:g}"
        print(f"line {number + 1} {fault}: its translation H-{number} is empty", file=sys.stderr)
        yield SimpleNamespace(
            ids=torch.tensor([i]),
            src_tokens=tokens[i].unsqueeze(0),
            src_lengths=torch.empty(0, dtype=torch.int64),
            constraints=pack_constraints([[]]) if constrained else None,
        )


def longest_source(max_positions: Any, max_tokens: int | None) -> float:
    """Return the number of tokens that a source sentence may have.

    Args:
        max_positions: a number, or a pair of numbers for source and target, or None.
        max_tokens: the number of tokens in a batch, or None.
    """
    source = max_positions[0] if isinstance(max_positions, Sequence) else max_positions
    return min(limit for limit in (source, max_tokens, math.inf) if limit is not None)


def leave_bad_lines_blank(
    original: Callable, self: FairseqTask, generator: Any, models: Any, sample: Any, **kwargs: Any
) -> list[list[dict[str, Any]]]:
    """Replaces ``FairseqTask.inference_step``."""
    lengths = sample["net_input"].get("src_lengths")
    if lengths is None or lengths.numel() > 0:
        return original(self, generator, models, sample, **kwargs)
    nothing = torch.empty(0)
    blank = {"tokens": nothing, "score": -math.inf, "alignment": [], "positional_scores": nothing}
    return [[blank]]
