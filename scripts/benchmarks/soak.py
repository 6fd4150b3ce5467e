"""Train for a long time on sentences of all lengths: does memory grow, do the losses drift apart?

python -m scripts.benchmarks.soak --minutes 30

Trains a small RevCol-Transformer twice over, reversible and plain, on the same random batches and
with the same dropout, and prints a line a minute. It ends with status 1 if a loss was not the same
in both to 1e-6, or if memory has grown between the second and the last third of the time.

Memory is counted three ways, every tenth update: tensors alive, bytes handed out by malloc (glibc
only) and resident memory of the process, which includes what malloc keeps for reuse.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import math
import random
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary, data_utils
from fairseq.tasks.translation import TranslationTask
from torch import Tensor, nn

from scripts.lib.models import build_model, joined_task

DRIFT = 1e-6
# What is free within the heap changes from minute to minute; a leak of one state per step does not
# hide in it: a single float64 row of this model, kept by each of 10,000 steps, is 10 MB.
TOLERANCE = 0.02
LONGEST = 256
EVERY = 10  # updates between two counts of memory


class Mallinfo2(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
        *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
    )]  # fmt: skip


class Memory(NamedTuple):
    """What the process holds."""

    tensors: int
    allocated: int  # bytes handed out by malloc; 0 where it does not tell
    resident: int  # bytes

    @classmethod
    def now(cls) -> Memory:
        gc.collect()
        tensors = sum(isinstance(found, Tensor) for found in gc.get_objects())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        libc, allocated = ctypes.CDLL(None), 0
        if hasattr(libc, "mallinfo2"):
            libc.mallinfo2.restype = Mallinfo2
            found = libc.mallinfo2()
            allocated = found.uordblks + found.hblkhd
        return cls(tensors, allocated, pages * resource.getpagesize())


class Twin:
    """A model in training, reversible or plain, seeded like its twin."""

    def __init__(self, args: Namespace, task: TranslationTask, *, reversible: bool):
        self.model = build_model(
            "revcol_transformer_tiny",
            task,
            seed=args.seed,
            encoder_columns=args.columns,
            encoder_no_reversible=not reversible,
            encoder_drop_path=0.1,
            attention_dropout=0.1,
            decoder_layers=1,
        ).train()
        self.padding = task.source_dictionary.pad()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.lr, betas=(0.9, 0.98))

    def step(self, seed: int, source: Tensor, previous: Tensor, target: Tensor) -> float:
        """One update on a batch, ``(B, T)`` each; its loss."""
        torch.manual_seed(seed)
        logits, _ = self.model(source, None, previous)
        loss = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), ignore_index=self.padding, label_smoothing=0.1
        )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def batch(chance: random.Random, dictionary: Dictionary, tokens: int) -> tuple[Tensor, ...]:
    """A source, the decoder's input and a target, which is the source turned round.

    Lengths are from 1 to `LONGEST`, in one batch all alike and in another all different.
    """
    low, high = sorted(round(LONGEST ** chance.random()) for _ in range(2))
    count = max(1, chance.randint(1, tokens) // high)
    words = range(dictionary.nspecial, len(dictionary))
    sentences = [chance.choices(words, k=chance.randint(low, high)) for _ in range(count)]
    pad, end = dictionary.pad(), dictionary.eos()
    source = [torch.tensor([*words, end]) for words in sentences]
    target = [torch.tensor([*reversed(words), end]) for words in sentences]
    return (
        data_utils.collate_tokens(source, pad, left_pad=True),
        data_utils.collate_tokens(target, pad, end, move_eos_to_beginning=True),
        data_utils.collate_tokens(target, pad),
    )


def growth(samples: Sequence[int]) -> float:
    """Median of the last third over that of the second, minus 1."""
    third = max(1, len(samples) // 3)
    return median(samples[-third:]) / (median(samples[third : 2 * third] or samples) or 1) - 1


def soak(args: argparse.Namespace) -> bool:
    """Train, tell, and whether all was well."""
    task = joined_task(args.vocabulary)
    twins = [Twin(args, task, reversible=reversible) for reversible in (True, False)]
    chance = random.Random(args.seed)
    start, told = time.monotonic(), 0.0
    samples: list[Memory] = []
    steps, tokens, equal, drift, losses = 0, 0, 0, 0.0, (math.nan, math.nan)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("minute | updates | tokens | loss | equal losses | largest difference | memory")
    while (minutes := (time.monotonic() - start) / 60) < args.minutes:
        tensors = batch(chance, task.source_dictionary, args.tokens)
        losses = tuple(twin.step(steps, *tensors) for twin in twins)
        steps, tokens = steps + 1, tokens + tensors[0].numel()
        equal += losses[0] == losses[1]
        difference = abs(losses[0] - losses[1]) / losses[1]
        drift = max(drift, math.inf if math.isnan(difference) else difference)
        del tensors
        if steps % EVERY == 1:
            samples.append(Memory.now())
        if minutes >= told:
            told += 1
            now = samples[-1]
            print(
                f"{minutes:.1f} | {steps} | {tokens} | {losses[0]:.4f} | {equal} | {drift:.1e} | "
                f"{now.tensors} tensors, {now.allocated / 2**20:.1f} MiB allocated, "
                f"{now.resident / 2**20:.1f} MiB resident",
                flush=True,
            )
    grown = {name: growth([getattr(sample, name) for sample in samples]) for name in Memory._fields}
    print(f"{steps} updates of both models on {tokens} source tokens, {args.columns} columns")
    print(f"losses equal to the last bit in {equal} of {steps}; largest difference {drift:.1e}")
    shares = ", ".join(f"{name} {share:+.2%}" for name, share in grown.items())
    print(f"growth from the second to the last third of the time: {shares}")
    weights = [[p.detach() for p in twin.model.parameters()] for twin in twins]
    same = sum(map(torch.equal, *weights))
    print(f"{same} of {len(weights[0])} parameters equal to the last bit at the end")
    return drift <= DRIFT and max(grown.values()) <= TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--columns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1024, help="at most, in a batch")
    parser.add_argument("--vocabulary", type=int, default=200)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    return 0 if soak(parser.parse_args()) else 1


if __name__ == "__main__":
    sys.exit(main())
