"""Translation with fairseq: impossible searches are refused, and every line gets an answer.

Each function here stands in for one of fairseq's, which it gets as ``original``.
"""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from fairseq.tasks import FairseqTask
from fairseq.token_generation_constraints import pack_constraints
from omegaconf import DictConfig


def check_search(original: Callable, self: FairseqTask, models: Any, args: Any, *rest, **kwargs):
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


_line_ids = itertools.count()  # over all buffers of the run, as fairseq-interactive counts


def set_bad_lines_aside(
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
            src_lengths=torch.tensor([0]),  # tells leave_bad_lines_blank
            constraints=pack_constraints([[]]) if constrained else None,
        )


def longest_source(max_positions: Any, max_tokens: int | None) -> float:
    """``max_positions`` is a number, or a pair of numbers for source and target, or None."""
    source = max_positions[0] if isinstance(max_positions, Sequence) else max_positions
    return min(limit for limit in (source, max_tokens, math.inf) if limit is not None)


def leave_bad_lines_blank(
    original: Callable, self: FairseqTask, generator: Any, models: Any, sample: Any, **kwargs: Any
) -> list[list[dict[str, Any]]]:
    if sample["net_input"]["src_lengths"].any():
        return original(self, generator, models, sample, **kwargs)
    nothing = torch.empty(0)
    blank = {"tokens": nothing, "score": -math.inf, "alignment": [], "positional_scores": nothing}
    return [[blank]]
