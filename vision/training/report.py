"""Results of a run in files: a table and curves of the epochs, and a report at the end."""

from __future__ import annotations

import csv
import json
import resource
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from revcol_nlp.checkpoints.integrity import write_atomically

# The measurements of one epoch, by name.
Row = dict[str, float]

MIB = 2**20


class Journal:
    """Keeps summary.csv, curve.png and the TensorBoard events of a run up to date.

    Each update rewrites the table and the figure from all epochs, so a resumed run has each epoch
    once.

    Args:
        folder: of the run.
        events: of TensorBoard.
    """

    def __init__(self, folder: Path, events: SummaryWriter):
        self.folder, self.events = folder, events

    def update(self, rows: list[Row]) -> None:
        """Adds the last of ``rows`` to the events, and writes the table and the figure of all."""
        for name, value in rows[-1].items():
            self.events.add_scalar(name, value, rows[-1]["epoch"])
        self.events.flush()
        with (
            write_atomically(self.folder / "summary.csv") as path,
            path.open("w", newline="", encoding="utf-8") as file,
        ):
            table = csv.DictWriter(file, rows[-1].keys())
            table.writeheader()
            table.writerows(rows)
        with write_atomically(self.folder / "curve.png") as path:
            plot_curves(rows, path)


def open_journal(folder: Path, epochs: int) -> Journal:
    """Opens the journal of a run that has completed ``epochs``.

    TensorBoard drops events of later epochs, which an interrupted process may have left.
    """
    return Journal(folder, SummaryWriter(folder, purge_step=epochs + 1))


def plot_curves(rows: list[Row], path: Path) -> None:
    """Plots loss and accuracies over the epochs into an image file."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    lines = (
        (0, "train_loss", "training", "C7-"),
        (0, "eval_loss", "validation", "C0-"),
        (0, "eval_loss_ema", "validation, EMA", "C1-"),
        (1, "eval_top1", "top-1", "C0-"),
        (1, "eval_top1_ema", "top-1, EMA", "C1-"),
        (1, "eval_top5", "top-5", "C0--"),
        (1, "eval_top5_ema", "top-5, EMA", "C1--"),
    )
    marker = {"marker": "o", "markersize": 3} if len(rows) < 30 else {}
    for panel, name, label, style in lines:
        if name in rows[-1]:
            values = [row[name] for row in rows]
            label = f"{label}: {values[-1]:.4g}"
            panels[panel].plot([row["epoch"] for row in rows], values, style, label=label, **marker)
    for panel, title in zip(panels, ("loss", "accuracy (%)"), strict=True):
        panel.set(xlabel="epochs", title=title)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=120)


def format_epoch(row: Row, epochs: int) -> str:
    """Returns an epoch's measurements as one line of the log."""
    unreadable = int(row["unreadable"] + row["eval_unreadable"])
    averaged = f" (EMA {row['eval_top1_ema']:.2f}%)" if "eval_top1_ema" in row else ""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}, validation loss "
        f"{row['eval_loss']:.4f}, top-1 {row['eval_top1']:.2f}%{averaged}, "
        f"{row['images_per_second']:.0f} images/s, {row['seconds'] + row['eval_seconds']:.1f} s"
        + (f", {unreadable} unreadable images" if unreadable else "")
    )


def measure_peak_memory(device: torch.device) -> float:
    """Returns the peak of memory so far in MiB: of tensors on a GPU, or else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_report(rows: list[Row], folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes report.json of a finished run, ``facts`` first, and returns its contents.

    Accuracies are in percent and memory in MiB; ``images_per_second`` is that of training,
    ``wall_seconds`` includes validation.
    """
    last = rows[-1]
    report = dict(facts, epochs=len(rows))
    for suffix in ("", "_ema"):
        if f"eval_top1{suffix}" in last:
            best = max(rows, key=lambda row: row[f"eval_top1{suffix}"])
            report[f"best_top1{suffix}"] = best[f"eval_top1{suffix}"]
            report[f"best_epoch{suffix}"] = best["epoch"]
            report[f"last_top1{suffix}"] = last[f"eval_top1{suffix}"]
            report[f"last_top5{suffix}"] = last[f"eval_top5{suffix}"]
    seconds = sum(row["seconds"] for row in rows)
    images = sum(row["images_per_second"] * row["seconds"] for row in rows)
    report |= {
        "images_per_second": round(images / seconds, 1),
        "wall_seconds": round(sum(row["seconds"] + row["eval_seconds"] for row in rows), 1),
        "peak_memory_mib": round(max(row["peak_memory_mib"] for row in rows), 1),
        # An epoch has each image at most once, so the epochs' counts must not be added.
        "unreadable_images": int(max(row["unreadable"] for row in rows)),
        "unreadable_validation_images": int(last["eval_unreadable"]),
        "best_checkpoint": str(folder / "model_best.pth.tar"),
        "last_checkpoint": str(folder / "last.pth.tar"),
        "summary": str(folder / "summary.csv"),
        "curve": str(folder / "curve.png"),
    }
    write_json(report, folder / "report.json")
    return report


def write_json(content: dict[str, Any], path: Path) -> None:
    """Writes ``content`` as JSON, in one step."""
    with write_atomically(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def format_report(report: dict[str, Any]) -> str:
    """Returns a report as lines of text: a name and a value each."""
    width = max(map(len, report))
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}  {round(value, 4) if type(value) is float else value}"
        for name, value in report.items()
    )
