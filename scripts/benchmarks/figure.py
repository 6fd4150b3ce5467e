"""Draw the results of benchmarks."""

from __future__ import annotations

import logging
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq lowers that of the root logger

COLOURS = {"encoder": "#4477aa", "decoder": "#66ccee", "logits": "#ee6677", "all": "#4477aa"}


def draw_models(rows: list[dict[str, Any]], unit: str, memory: float, path: Path) -> None:
    """Draw memory by part, largest batch and speed for each row of ``scripts.benchmarks.models``.

    Args:
        rows: from ``scripts.benchmarks.steps.measure_variants``.
        unit: "tokens" or "images".
        memory: GiB that the largest batch must fit into.
        path: file to write; its suffix chooses the format.
    """
    names = [", ".join(row["labels"].values()) for row in rows]
    places = range(len(rows))
    timed = "per_second" in rows[0]
    figure = Figure(figsize=(15, 1.2 + 0.36 * len(rows)), layout="constrained")
    held, batch, work = figure.subplots(1, 3, sharey=True)
    left = [0.0] * len(rows)
    for part, colour in COLOURS.items():
        widths = [row["held"].get(part, 0) / 2**20 for row in rows]
        if any(widths):
            held.barh(places, widths, left=left, color=colour, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    peaks = [sum(row["peak"].values()) / 2**20 for row in rows]
    held.plot(peaks, places, "k|", markersize=12, label="peak")
    held.set_xlabel("MiB held for the backward pass, and at the peak")
    figure.legend(loc="outside upper left", ncols=len(COLOURS))
    held.set_ylim(-0.6, len(rows) - 0.4)
    held.set_yticks(places, names)
    held.invert_yaxis()
    batch.barh(places, [row["largest_batch"] for row in rows], color="#228833")
    batch.set_xlabel(f"{unit} in the largest batch for {memory:g} GiB")
    work.barh(places, [row["per_second" if timed else "gflops"] for row in rows], color="#ccbb44")
    work.set_xlabel(f"{unit} per second" if timed else f"GFLOPs per {unit[:-1]}")
    for axes, ratio in ((batch, "batch_ratio"), (work, "speed_ratio")):
        for bar, row in zip(axes.patches, rows, strict=True):
            if ratio in row:
                end = (bar.get_width(), bar.get_y() + bar.get_height() / 2)
                axes.annotate(f" {row[ratio]:.2f} x", end, va="center", fontsize=8)
        axes.margins(x=0.15)
    for axes in (held, batch, work):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def draw_lines(x: str, y: str, lines: dict[str, list[tuple[float, float]]], path: Path) -> None:
    """Draw named lines through points on logarithmic axes, which leave out values of 0."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.subplots()
    for (name, points), marker in zip(lines.items(), cycle("osD^v<>P"), strict=False):
        axes.plot(*zip(*points, strict=True), marker=marker, label=name)
    axes.set(xlabel=x, title=y, xscale="log", yscale="log")
    ticks = sorted({point[0] for points in lines.values() for point in points})
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
