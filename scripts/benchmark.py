"""Print the figures of the README: how exact, how small and how fast reversible columns are here.

python scripts/benchmark.py exactness
python scripts/benchmark.py memory --columns 1 2 4 8 16 32 64
python scripts/benchmark.py speed --columns 4 --dim 768
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch
from torch import Tensor

from revcol_nlp import reversible, verify
from revcol_nlp.layers import IsotropicConfig, isotropic_columns
from revcol_nlp.revcol import RevCol

LENGTH = 32  # tokens in a sentence


def build(args: argparse.Namespace, columns: int, gamma: float | str = 0.5) -> RevCol:
    torch.manual_seed(0)
    config = IsotropicConfig(
        dim=args.dim,
        num_heads=max(1, args.dim // 64),
        ffn_dim=4 * args.dim,
        columns=columns,
        dropout=0.1,
        drop_path=0.1,
    )
    model = RevCol(isotropic_columns(config)).to(args.device).train()
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):
            with torch.no_grad():
                parameter.uniform_(1e-3, 1) if gamma == "uniform" else parameter.fill_(gamma)
    return model


def stem_output(args: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (args.tokens // LENGTH, LENGTH, args.dim)
    return torch.randn(shape, generator=generator).to(args.device)


class NaiveRevCol(RevCol):
    """States in float32, read as they are: how reversible networks are usually inverted."""

    def forward(self, stem: Tensor, level_kwargs: None = None) -> list[Tensor]:
        no_kwargs, last = [{}] * self.num_levels, len(self.columns) - 1
        states = None
        if self.reversible:
            states = reversible.run_reversible(self.columns, stem, no_kwargs, {last})[last]
        else:
            for column in self.columns:
                states = column(stem, states, no_kwargs, torch.float32)
        return [state.exact for state in states]


def exactness(args: argparse.Namespace) -> None:
    print("largest relative difference of any gradient, reversible against ordinary autograd")
    print(f"{args.tokens} tokens, {args.dim} channels, dropout and drop-path 0.1, {args.device}\n")
    print("| columns | gamma | compute | keyframes | naive inversion | this project |")
    print("|---|---|---|---|---|---|")
    stem = stem_output(args)
    for columns in args.columns:
        for gamma in (0.5, "uniform"):
            model = build(args, columns, gamma)
            naive = NaiveRevCol(model.columns)
            kept = reversible.plan_keyframes(model.columns[:-1], model.keyframe_budget)
            for compute, autocast in (("float32", None), ("bf16", torch.bfloat16)):
                ours = max(verify.gradient_difference(model, stem, autocast=autocast).values())
                with mock.patch.object(reversible, "STATE_DTYPE", torch.float32):
                    found = verify.gradient_difference(naive, stem, autocast=autocast)
                name = "in [1e-3, 1]" if gamma == "uniform" else gamma
                row = f"{len(kept) - 1} | {max(found.values()):.0e} | {ours:.0e}"
                print(f"| {columns} | {name} | {compute} | {row} |", flush=True)


def memory(args: argparse.Namespace) -> None:
    print("MiB held for the backward pass, parameters aside")
    print(f"{args.tokens} tokens, {args.dim} channels, gamma 0.5, {args.device}\n")
    print("| columns | reversible | plain |")
    print("|---|---|---|")
    stem = stem_output(args).requires_grad_()
    for columns in args.columns:
        model, held = build(args, columns), []
        for model.reversible in (True, False):
            parameters = [*model.parameters(), stem]
            step = lambda model=model: model(stem)[-1].square().sum()  # noqa: E731
            held.append(verify.held_bytes(step, parameters) / 2**20)
        print(f"| {columns} | {held[0]:.1f} | {held[1]:.1f} |", flush=True)


def speed(args: argparse.Namespace) -> None:
    clock = time.perf_counter if args.device == "cuda" else time.process_time
    print("seconds (on the CPU, of CPU time) for one training step, in turn, median of the ratios")
    print(f"{args.tokens} tokens, {args.dim} channels, {args.device}\n")
    print("| columns | reversible | plain | ratio |")
    print("|---|---|---|---|")
    stem = stem_output(args).requires_grad_()
    for columns in args.columns:
        model = build(args, columns)
        pairs = []
        for _ in range(args.repeats + 1):
            pair = []
            for model.reversible in (True, False):
                start = clock()
                model(stem)[-1].square().sum().backward()
                if args.device == "cuda":
                    torch.cuda.synchronize()
                pair.append(clock() - start)
            pairs.append(pair)
        counted = pairs[1:]  # the first warms up
        rebuilt, plain = (statistics.median(times) for times in zip(*counted, strict=True))
        ratio = statistics.median(a / b for a, b in counted)
        print(f"| {columns} | {rebuilt:.3f} | {plain:.3f} | {ratio:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("exactness", "memory", "speed"))
    parser.add_argument("--columns", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--tokens", type=int, default=1024, help="in sentences of 32")
    parser.add_argument("--dim", type=int, default=64, help="channels")
    parser.add_argument("--repeats", type=int, default=5, help="steps timed by `speed`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    {"exactness": exactness, "memory": memory, "speed": speed}[args.what](args)


if __name__ == "__main__":
    main()
