"""Measure how exact, how small and how fast reversible columns are on this machine.

python -m scripts.benchmarks.columns exactness
python -m scripts.benchmarks.columns memory --columns 1 2 4 8 16 32 64
python -m scripts.benchmarks.columns speed --columns 4 --dim 768 --tokens 512
python -m scripts.benchmarks.columns profile --columns 4 --dim 256 --compile
python -m scripts.benchmarks.columns attention

The command runs all ways to train in one process, on the same weights and tokens, in turn. It
counts bytes with live_bytes.py, without computing the matrix products.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from revcol_nlp.columns import verify
from revcol_nlp.columns.stack import RevCol
from scripts.benchmarks.attention import measure_attention
from scripts.benchmarks.figure import draw_lines
from scripts.benchmarks.live_bytes import LiveBytes
from scripts.benchmarks.profile import profile_runs
from scripts.benchmarks.timing import median_ratio, time_in_turn
from scripts.benchmarks.ways import build, build_naive, timed_ways, ways
from scripts.lib.tables import format_table

LENGTH = 32  # tokens in a sentence
COMPUTE = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Rows = list[dict[str, Any]]


def make_stem_output(args: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (args.tokens // LENGTH, LENGTH, args.dim)
    return torch.randn(shape, generator=generator).to(args.device)


def measure_exactness(args: argparse.Namespace) -> Rows:
    """Largest relative difference of any gradient, reversible against ordinary autograd."""
    stem, rows = make_stem_output(args), []
    for columns in args.columns:
        for gamma in (0.5, "uniform"):
            model = build(args.dim, columns, gamma, device=args.device)
            kept = len(model.keyframes()) - 1
            row = {"columns": columns, "gamma": gamma, "keyframes": kept}
            for name, autocast in COMPUTE.items():
                for way, candidate in (("naive", build_naive(model)), ("ours", model)):
                    found = verify.gradient_difference(candidate, stem, autocast=autocast)
                    row[f"{way}, {name}"] = max(found.values())
            rows.append(row)
    return rows


def count_step(
    model: RevCol, forward: Callable[[Tensor], Tensor], stem: Tensor
) -> tuple[int, int, int]:
    """Bytes held for the backward pass, bytes at the peak, and FLOPs, of one step."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with LiveBytes(compute=False) as counter:
        loss = forward(stem).square().sum()
        held = counter.live.total()
        loss.backward()
    return held, counter.peak.total(), counter.flops


def measure_memory(args: argparse.Namespace) -> Rows:
    """Bytes held for the backward pass, and at the peak of the step, by the number of columns."""
    stem, rows = make_stem_output(args).requires_grad_(), []
    for columns in args.columns:
        model = build(args.dim, columns, device=args.device)
        for way, forward in ways(model).items():
            stem.grad = torch.zeros_like(stem)
            held, peak, flops = count_step(model, forward, stem)
            rows.append(
                {"columns": columns, "way": way, "held": held, "peak": peak, "flops": flops}
            )
    return rows


def run_step(forward: Callable[[Tensor], Tensor], stem: Tensor) -> None:
    """A step's forward and backward pass."""
    forward(stem).square().sum().backward()


def measure_speed(args: argparse.Namespace) -> Rows:
    """Seconds of a training step (on the CPU, of CPU time), and its ratio to the plain one's."""
    stem, rows = make_stem_output(args).requires_grad_(), []
    for columns in args.columns:
        found = timed_ways(args.dim, columns, args.device, args.compile)
        runs = {way: partial(run_step, run, stem) for way, run in found.items()}
        seconds, _ = time_in_turn(runs, args.repeats, args.device)
        for way, times in seconds.items():
            row = {"columns": columns, "way": way, "seconds": statistics.median(times)}
            row |= {"least": min(times), "most": max(times)}
            rows.append(row | {"ratio": median_ratio(times, seconds["plain"])})
    return rows


def measure_profile(args: argparse.Namespace) -> Rows:
    """Where the time of a training step goes, in parts of the plain one's."""
    stem, rows = make_stem_output(args).requires_grad_(), []
    for columns in args.columns:
        found = timed_ways(args.dim, columns, args.device, args.compile)
        runs = {way: partial(run_step, run, stem) for way, run in found.items()}
        shares = profile_runs(runs, args.repeats, args.device)
        whole = sum(shares["plain"].values())
        for way, parts in shares.items():
            parts = {kind: value / whole for kind, value in parts.items()}
            rows.append({"columns": columns, "way": way, **parts, "all": sum(parts.values())})
    return rows


TITLES = {
    "exactness": "largest relative difference of any gradient to ordinary autograd's",
    "memory": "MiB of activations and their gradients in a training step, parameters' aside",
    "speed": "seconds for a training step",
    "profile": "where the time of a training step goes; 1 is all of the plain one",
    "attention": "normalised attention beside fairseq's MultiheadAttention",
}
BENCHMARKS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "exactness": measure_exactness,
    "memory": measure_memory,
    "speed": measure_speed,
    "profile": measure_profile,
    "attention": measure_attention,
}


def format_cell(name: str, value: Any) -> str:
    if name in ("held", "peak"):
        return f"{value / 2**20:.1f}"
    if name == "flops":
        return f"{value / 1e9:.1f} G"
    if isinstance(value, float):
        return f"{value:.0e}" if "," in name or "error" in name else f"{value:.3g}"
    return str(value)


def describe_picture(
    what: str, rows: Rows
) -> tuple[str, str, dict[str, list[tuple[float, float]]]]:
    """Labels of both axes, and the points of each line."""
    if what == "exactness":
        lines = {
            f"{name}, gamma {gamma}": [(r["columns"], r[name]) for r in rows if r["gamma"] == gamma]
            for name in rows[0]
            if "," in name
            for gamma in (0.5, "uniform")
        }
        return "columns", TITLES[what], lines
    x, y = ("length", "time ratio") if what == "attention" else ("columns", "peak")
    if what in ("speed", "profile"):
        y = "ratio" if what == "speed" else "all"
    unit = 2**20 if y == "peak" else 1
    ways = dict.fromkeys(row["way"] for row in rows)
    lines = {w: [(r[x], r[y] / unit) for r in rows if r["way"] == w] for w in ways}
    return x, f"{TITLES[what]}: {y}", lines


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.benchmarks.columns",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=BENCHMARKS, help="benchmark to run")
    parser.add_argument(
        "--columns",
        type=int,
        nargs="+",
        default=[4, 8, 16, 32, 64],
        help="numbers of columns (default: 4 8 16 32 64)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=1024,
        help="tokens in a step, in sentences of 32 (default: %(default)s)",
    )
    parser.add_argument("--dim", type=int, default=64, help="channels (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of timed steps (default: %(default)s)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also measure compiled levels (speed and profile only)",
    )
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of PyTorch (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--figure", type=Path, help="also draw the rows, to a .png or .svg file")
    args = parser.parse_args()
    if args.tokens < LENGTH:
        parser.error(f"--tokens must be at least {LENGTH}, one sentence")
    if args.compile and args.what not in ("speed", "profile"):
        parser.error("--compile has an effect on `speed` and `profile` only")
    return args


def main() -> None:
    """Print the table; write and draw it."""
    args = parse_args()
    print(
        f"{TITLES[args.what]}\n{args.tokens} tokens, {args.dim} channels, {args.device}, ", end=""
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    rows = BENCHMARKS[args.what](args)
    cells = [[format_cell(name, value) for name, value in row.items()] for row in rows]
    print(format_table(list(rows[0]), cells))
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items()}
        found = {"torch": torch.__version__, "settings": settings, "rows": rows}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw_lines(*describe_picture(args.what, rows), args.figure)


if __name__ == "__main__":
    main()
