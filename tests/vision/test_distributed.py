"""vision.train in several processes computes what one computes with their batches joined."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.images import EVERYTHING, make_images, rows, status, train
from tests.helpers.processes import run_in_processes
from vision.training.checkpoints import read_checkpoint
from vision.training.trainer import Trainer

MODEL = (
    *("--model", "revcol_vit_pico_patch4_32", "--img-size", 32, "--model-kwargs", "patch_size=16"),
    *("embed_dim=16", "num_heads=2", "num_columns=3", "--batch-size", 8),
    # Not Adam, which makes full steps of gradients that are rounding alone.
    *("--opt", "sgd", "--momentum", 0.9, "--lr", 0.05),
    *("--epochs", 2, "--workers", 0, "--device", "cpu"),
)
LAST = "last.pth.tar"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def assert_like_one(folder: Path, command: tuple[object, ...], tmp_path: Path) -> None:
    """Losses, accuracies and weights are those of one process, rounding aside."""
    run_in_processes(1, train, *command, "--output", tmp_path / "one")
    for ours, theirs in zip(rows(folder), rows(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    weights = [read_checkpoint(path / LAST)["state_dict"] for path in (folder, tmp_path / "one")]
    for name, weight in weights[1].items():
        bound = 1e-4 * max(1, weight.abs().max())
        assert (weights[0][name] - weight).abs().max() <= bound, name


@pytest.mark.parametrize(
    ("world", "options"),
    [
        (4, ("--micro-batch-size", 1)),
        pytest.param(2, ("--micro-batch-size", 4), marks=pytest.mark.slow),
        pytest.param(4, (*EVERYTHING, "--micro-batch-size", 2), marks=pytest.mark.slow),
        pytest.param(
            2, ("--micro-batch-size", 2, "--amp-dtype", "bfloat16"), marks=pytest.mark.slow
        ),
    ],
)
def test_processes_compute_what_one_computes(
    world: int, options: tuple[object, ...], data: Path, tmp_path: Path
) -> None:
    command = (data, *MODEL, *options)
    run_in_processes(world, train, *command, "--output", tmp_path / "several")
    assert_like_one(tmp_path / "several", command, tmp_path)


def test_a_signal_to_one_process_stops_all_after_the_same_update(
    data: Path, tmp_path: Path
) -> None:
    command = (data, *MODEL, "--micro-batch-size", 4)
    folder = tmp_path / "several"
    statuses = run_in_processes(2, train_until_terminated, *command, "--output", folder)
    assert statuses == [128 + signal.SIGTERM] * 2
    assert [path.name for path in folder.glob("*.pth.tar")] == ["recovery-0-3.pth.tar"]
    run_in_processes(2, train, *command, "--output", folder)
    assert_like_one(folder, command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1)])
def test_another_number_of_processes_resumes_a_run(
    before: int, after: int, data: Path, tmp_path: Path
) -> None:
    """Killed after 7 of 10 updates, in the middle of the second epoch."""
    command = (data, *MODEL, "--micro-batch-size", 2, "--checkpoint-interval", 1)
    folder = tmp_path / "several"
    with pytest.raises(RuntimeError, match="interrupted"):
        run_in_processes(before, train_seven_updates, *command, "--output", folder)
    assert list(folder.glob("recovery-1-1*"))
    run_in_processes(after, train, *command, "--output", folder)
    assert_like_one(folder, command, tmp_path)


def train_seven_updates(*args: object) -> None:
    updates = iter(range(7))
    original = Trainer.train_update

    def train_update(*args: Any) -> bool:
        if next(updates, None) is None:
            raise KeyError("interrupted")
        return original(*args)

    Trainer.train_update = train_update
    train(*args)


def train_until_terminated(*args: object) -> int:
    """Trains, and sends SIGTERM to the process of rank 1 in its third update."""
    original = Trainer.train_update

    def train_update(trainer: Trainer, batches: Any) -> bool:
        if trainer.process.rank == 1 and trainer.progress.update == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(trainer, batches)

    Trainer.train_update = train_update
    return status("train", *args)
