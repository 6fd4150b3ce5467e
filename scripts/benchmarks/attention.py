"""Compare the attention of the columns with fairseq's attention: time, memory, rounding."""

from __future__ import annotations

import argparse
import copy
import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from revcol_nlp.columns.isotropic import NormalizedAttention
from scripts.benchmarks.live_bytes import LiveBytes
from scripts.benchmarks.timing import median_ratio, time_in_turn


def measure_attention(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a training step of both, on sequences of 32 to 1,024 tokens, ``--tokens`` in total.

    The bf16 error is the largest difference between the output under autocast and that of the same
    module in float64, relative to the largest element.
    """
    from fairseq.modules import MultiheadAttention

    heads = max(1, args.dim // 64)
    torch.manual_seed(0)
    modules = {
        "fairseq": MultiheadAttention(args.dim, heads, self_attention=True).to(args.device),
        "normalised": NormalizedAttention(args.dim, heads).to(args.device),
    }
    rows = []
    for length in (32, 128, 512, 1024):
        shape = (max(1, args.tokens // length), length, args.dim)
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(args.device)
        x.requires_grad_()
        runs = {way: partial(_step, module, x) for way, module in modules.items()}
        seconds, _ = time_in_turn(runs, args.repeats, args.device)
        for way, module in modules.items():
            with LiveBytes(compute=False) as counter:
                loss = _attend(module, x).square().sum()
                held = counter.live.total()
                loss.backward()
            with torch.no_grad():
                exact = _attend(copy.deepcopy(module).double(), x.double())
                with torch.autocast(args.device, torch.bfloat16):
                    error = (_attend(module, x) - exact).abs().max() / exact.abs().max()
            row = {"length": length, "way": way, "seconds": statistics.median(seconds[way])}
            row |= {"time ratio": median_ratio(seconds[way], seconds["fairseq"])}
            row |= {"held": held, "peak": counter.peak.total(), "bf16 error": error.item()}
            rows.append(row)
    return rows


def _attend(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, NormalizedAttention):
        return module(x, None)
    x = x.transpose(0, 1)
    return module(x, x, x, need_weights=False)[0].transpose(0, 1)


def _step(module: nn.Module, x: Tensor) -> None:
    _attend(module, x).square().sum().backward()
