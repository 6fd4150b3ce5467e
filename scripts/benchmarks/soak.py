"""Train for a long time on sentences of all lengths, to see whether memory grows or losses differ.

python -m scripts.benchmarks.soak --minutes 30

The command trains two equal small RevCol-Transformers, one reversible and one plain, on the same
random batches with the same dropout, and prints a line per minute. It exits with status 1 if their
losses ever differed by more than 1e-6, or if memory grew from the second to the last third of the
time.

Memory is measured in three ways, every tenth update: number of live tensors, bytes that malloc has
handed out (glibc only), and resident memory of the process, which includes free memory that malloc
keeps for reuse.
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

from scripts.lib.command_line import build_parser, positive_integer
from scripts.lib.models import build_joined_task, build_model

MAX_DIFFERENCE = 1e-6  # of the losses, relative
# Relative growth of memory. Free memory in the heap changes from minute to minute. A leak is
# larger: if each of 10,000 steps keeps a single float64 row of this model, that is 10 MB.
MAX_GROWTH = 0.02
LONGEST = 256  # words in a sentence
EVERY = 10  # updates between two measurements of memory


class Mallinfo2(ctypes.Structure):
    """Return value of glibc's ``mallinfo2``."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
        *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
    )]  # fmt: skip


class Memory(NamedTuple):
    """Memory of this process.

    Attributes:
        tensors: number of live tensors.
        allocated: bytes that malloc has handed out; 0 without glibc.
        resident: bytes of resident memory.
    """

    tensors: int
    allocated: int
    resident: int

    @classmethod
    def measure(cls) -> Memory:
        """Measure the memory of this process after collecting garbage."""
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
    """A model in training, reversible or plain, with the same seed as its twin."""

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
        """Make an update on a batch of int64 tensors of shape ``(B, T)``; return its loss."""
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


def make_batch(chance: random.Random, dictionary: Dictionary, tokens: int) -> tuple[Tensor, ...]:
    """Make a random batch whose targets are the reversed sources.

    Sentences have 1 to `LONGEST` words. Lengths are almost equal in some batches, and differ much
    in others.

    Returns:
        Source, decoder input and target, int64 tensors of shape ``(B, T)``.
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


def compute_growth(samples: Sequence[int]) -> float:
    """Compute how much the median grows from the second to the last third, relatively."""
    third = max(1, len(samples) // 3)
    return median(samples[-third:]) / (median(samples[third : 2 * third] or samples) or 1) - 1


def train_twins(args: argparse.Namespace) -> bool:
    """Train both models and print the results.

    Returns:
        True if losses agree and memory does not grow.
    """
    task = build_joined_task(args.vocabulary)
    twins = [Twin(args, task, reversible=reversible) for reversible in (True, False)]
    chance = random.Random(args.seed)
    start, next_line = time.monotonic(), 0.0
    samples: list[Memory] = []
    steps, tokens, equal, largest, losses = 0, 0, 0, 0.0, (math.nan, math.nan)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("minute | updates | tokens | loss | equal losses | largest difference | memory")
    while (minutes := (time.monotonic() - start) / 60) < args.minutes:
        tensors = make_batch(chance, task.source_dictionary, args.tokens)
        losses = tuple(twin.step(steps, *tensors) for twin in twins)
        steps, tokens = steps + 1, tokens + tensors[0].numel()
        equal += losses[0] == losses[1]
        difference = abs(losses[0] - losses[1]) / losses[1]
        largest = max(largest, math.inf if math.isnan(difference) else difference)
        del tensors
        if steps % EVERY == 1:
            samples.append(Memory.measure())
        if minutes >= next_line:
            next_line += 1
            now = samples[-1]
            print(
                f"{minutes:.1f} | {steps} | {tokens} | {losses[0]:.4f} | {equal} | {largest:.1e} | "
                f"{now.tensors} tensors, {now.allocated / 2**20:.1f} MiB allocated, "
                f"{now.resident / 2**20:.1f} MiB resident",
                flush=True,
            )
    grown = {
        name: compute_growth([getattr(sample, name) for sample in samples])
        for name in Memory._fields
    }
    print(f"{steps} updates of both models on {tokens} source tokens, {args.columns} columns")
    print(f"{equal} of {steps} losses equal to the last bit; largest difference {largest:.1e}")
    shares = ", ".join(f"{name} {share:+.2%}" for name, share in grown.items())
    print(f"growth from the second to the last third of the time: {shares}")
    weights = [[p.detach() for p in twin.model.parameters()] for twin in twins]
    same = sum(map(torch.equal, *weights))
    print(f"{same} of {len(weights[0])} parameters equal to the last bit at the end")
    return largest <= MAX_DIFFERENCE and max(grown.values()) <= MAX_GROWTH


def main() -> int:
    """Run the command."""
    parser = build_parser(__spec__.name, __doc__)
    count = {"type": positive_integer}
    parser.add_argument("--minutes", type=float, default=30, help="duration (default: %(default)s)")
    parser.add_argument(
        "--columns", **count, default=4, help="columns of the encoder (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens",
        **count,
        default=1024,
        help="maximal number of words in a batch (default: %(default)s)",
    )
    parser.add_argument(
        "--vocabulary",
        **count,
        default=200,
        help="entries of the joined dictionary (default: %(default)s)",
    )
    parser.add_argument(
        "--lr", type=float, default=5e-4, help="learning rate of Adam (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: %(default)s)")
    return 0 if train_twins(parser.parse_args()) else 1


if __name__ == "__main__":
    sys.exit(main())
