"""Shared by the tests of vision.train: tiny images, a tiny model, runs in this process."""

import csv
import signal
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vision.train
import vision.validate
from vision.training.checkpoints import read_checkpoint
from vision.training.command import run_command
from vision.training.distributed import Process
from vision.training.options import parse_training
from vision.training.run import build_trainer
from vision.training.trainer import Trainer

CLASSES = ("bird", "cat", "dog")

TINY = (
    *("--model", "test_vit", "--img-size", 32),
    *("--model-kwargs", "patch_size=16", "embed_dim=16", "depth=2", "num_heads=2"),
    *("--epochs", 3, "--batch-size", 8, "--workers", 0, "--device", "cpu", "--lr", 0.01),
)
# Options that use random numbers or keep a state besides the weights.
EVERYTHING = (
    *("--drop", 0.1, "--drop-path", 0.1, "--mixup", 0.8, "--cutmix", 1, "--model-ema"),
    *("--model-ema-decay", 0.9, "--aa", "rand-m9-mstd0.5-inc1", "--reprob", 0.25),
    *("--warmup-epochs", 1, "--clip-grad", 1, "--checkpoint-interval", 2),
)


def make_images(folder: Path, train: int = 14, val: int = 5) -> Path:
    """Writes ``train`` and ``val`` images per class: noise around a colour of the class."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 195, (36, 40, 3)) + 60 * np.eye(3, dtype=int)[label]
                suffix = ("png", "jpg")[index % 2]
                file = folder / split / name / f"{index}.{suffix}"
                Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


def pack(folder: Path, archive: Path) -> Path:
    """Packs all files below ``folder`` into a .zip file."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return archive


def status(command: str, *args: object) -> int:
    """The exit status of ``vision.<command>``, run in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return run_command(getattr(getattr(vision, command), command), [*map(str, args)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(*args: object) -> None:
    """Runs ``vision.train`` in this process; it must succeed."""
    assert status("train", *args) == 0


def build(*args: object) -> Trainer:
    """Builds all parts of a run of ``vision.train`` with these options, in one process."""
    process = Process(torch.device("cpu"), rank=0, world=1)
    return build_trainer(parse_training([*map(str, args)]), process)


def sentence(capsys, command: str, *args: object) -> str:
    """Returns the message with which ``vision.<command>`` refuses: one line, exit status 2."""
    assert status(command, *args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def rows(folder: Path) -> list[dict[str, float]]:
    """Returns summary.csv without the columns that depend on the clock and the machine."""
    with (folder / "summary.csv").open(newline="") as file:
        table = [
            {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
        ]
    unsteady = {"seconds", "eval_seconds", "images_per_second", "peak_memory_mib"}
    return [{name: row[name] for name in row.keys() - unsteady} for row in table]


def steps(folder: Path) -> list[int]:
    """Returns the epochs that TensorBoard has."""
    # Files that one process begins within a second are read by name, 10 before 9, and the later
    # epochs would be taken for orphans of a restart.
    events = EventAccumulator(str(folder), purge_orphaned_data=False)
    events.Reload()
    return sorted({event.step for event in events.Scalars("eval_top1")})


def assert_same_run(
    folder: Path, other: Path, files: Sequence[str] = ("last", "model_best")
) -> None:
    """Both runs ended with the same weights, averages, optimizer state, table and files."""
    assert rows(folder) == rows(other)
    assert steps(folder) == steps(other) == [row["epoch"] for row in rows(folder)]
    kept = [sorted(path.name for path in run.glob("*.pth.tar*")) for run in (folder, other)]
    assert kept[0] == kept[1]
    for name in files:
        ours, theirs = (read_checkpoint(run / f"{name}.pth.tar") for run in (folder, other))
        for key in ("state_dict", "state_dict_ema", "optimizer"):
            assert (key in ours) == (key in theirs)
            torch.testing.assert_close(ours.get(key), theirs.get(key), rtol=0, atol=0)
        assert ours["epoch"] == theirs["epoch"] and ours["saver"] == theirs["saver"]
