"""vision.train in several processes computes what one computes with their batches joined."""

from pathlib import Path
from typing import Any

import pytest
import torch

import vision.train
from tests.helpers.images import EVERYTHING, make_images, rows, train
from tests.helpers.processes import run_in_processes as run
from vision.training.checkpoints import read

MODEL = (
    *("--model", "revcol_vit_pico_patch4_32", "--img-size", 32, "--model-kwargs", "patch_size=16"),
    *("embed_dim=16", "num_heads=2", "num_columns=3", "--batch-size", 8, "--lr", 0.01),
    *("--epochs", 2, "--workers", 0, "--device", "cpu"),
)
LAST = "last.pth.tar"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"))


def assert_like_one(folder: Path, command: tuple[object, ...], tmp_path: Path) -> None:
    """Losses, accuracies and weights are those of one process, rounding aside."""
    run(1, train, *command, "--output", tmp_path / "one")
    for ours, theirs in zip(rows(folder), rows(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    weights = [read(path / LAST)["state_dict"] for path in (folder, tmp_path / "one")]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


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
    run(world, train, *command, "--output", tmp_path / "several")
    assert_like_one(tmp_path / "several", command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1)])
def test_another_number_of_processes_goes_on_where_a_run_was(
    before: int, after: int, data: Path, tmp_path: Path
) -> None:
    """Killed after 7 of 10 updates, in the middle of the second epoch."""
    command = (data, *MODEL, "--micro-batch-size", 2, "--checkpoint-interval", 1)
    folder = tmp_path / "several"
    with pytest.raises(RuntimeError, match="cut off"):
        run(before, train_seven_updates, *command, "--output", folder)
    assert list(folder.glob("recovery-1-1*"))
    run(after, train, *command, "--output", folder)
    assert_like_one(folder, command, tmp_path)


def train_seven_updates(*args: object) -> None:
    updates = iter(range(7))
    original = vision.train.Run._update

    def update(*args: Any) -> None:
        if next(updates, None) is None:
            raise KeyError("cut off")
        original(*args)

    vision.train.Run._update = update
    train(*args)
