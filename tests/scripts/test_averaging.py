"""scripts/translation/average_checkpoints.py: it averages checkpoints of one model only."""

import argparse
import os
from pathlib import Path

import pytest
import torch

from scripts.translation import average_checkpoints as averaging
from tests.helpers.scripts import assert_refused, run_script


def write_checkpoint(path: Path, update: int, **model: torch.Tensor) -> Path:
    """Write a checkpoint like fairseq's, whose weights depend on ``update``."""
    weights = {
        "weight": torch.full((2, 3), 0.1 * update),
        "half": torch.tensor([1.0 + update], dtype=torch.float16),
        "steps": torch.tensor([7]),
    }
    state = {
        "args": argparse.Namespace(arch="transformer"),
        "model": weights | model,
        "optimizer_history": [{"num_updates": update}],
        "last_optimizer_state": {"state": torch.zeros(5)},
        "extra_state": {"epoch": update},
    }
    torch.save(state, path)
    return path


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder with checkpoints of epochs 8 to 11 and the other checkpoints of a training."""
    for epoch in (8, 9, 10, 11):
        write_checkpoint(tmp_path / f"checkpoint{epoch}.pt", epoch)
        write_checkpoint(tmp_path / f"checkpoint_1_{epoch * 100}.pt", epoch * 100)
    write_checkpoint(tmp_path / "checkpoint_last.pt", 99)
    write_checkpoint(tmp_path / "checkpoint_best.pt", 99)
    return tmp_path


def test_the_last_epochs_are_averaged(checkpoints: Path) -> None:
    output = checkpoints / "average.pt"
    done = run_script(
        "translation/average_checkpoints.py",
        *("--inputs", checkpoints, "--num-epoch-checkpoints", 3, "--output", output),
    )
    assert done.returncode == 0, done.stderr
    assert "checkpoint11.pt, checkpoint10.pt, checkpoint9.pt" in done.stdout
    with torch.serialization.safe_globals([argparse.Namespace]):
        state = torch.load(output, weights_only=True)
    torch.testing.assert_close(state["model"]["weight"], torch.full((2, 3), 1.0))
    assert state["model"]["half"].dtype == torch.float16
    assert state["model"]["half"].item() == 11.0
    assert state["model"]["steps"].tolist() == [7]
    assert state["extra_state"] == {"epoch": 11}
    assert state["args"].arch == "transformer"
    assert "last_optimizer_state" not in state
    assert not list(checkpoints.glob("*.part*"))


def test_update_checkpoints_are_ordered_by_update(checkpoints: Path) -> None:
    chosen = averaging.find_last_checkpoints(checkpoints, averaging.UPDATE_NAME, 3)
    assert [path.name for path in chosen] == [f"checkpoint_1_{n}.pt" for n in (1100, 1000, 900)]


def test_the_sum_is_exact(tmp_path: Path) -> None:
    """In float32 the ones would vanish beside 2**25; in float64 none is lost."""
    values = [2.0**25] + [1.0] * 7
    paths = [
        write_checkpoint(tmp_path / f"{i}.pt", i, weight=torch.tensor([value]))
        for i, value in enumerate(values)
    ]
    with torch.serialization.safe_globals([argparse.Namespace]):
        mean = averaging.average(paths)["model"]["weight"]
    assert mean.dtype == torch.float32
    assert mean.item() == torch.tensor(sum(values) / 8).item() != 2.0**25 / 8


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"steps": torch.tensor([8])}, "steps is not floating-point"),
        ({"weight": torch.zeros(3, 2)}, r"weight is \(3, 2\)"),
        ({"weight": torch.zeros(2, 3, dtype=torch.float64)}, "float64"),
        ({"other": torch.zeros(1)}, "parameter other"),
    ],
)
def test_models_that_differ_are_refused(
    model: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    paths = [
        write_checkpoint(tmp_path / "a.pt", 1),
        write_checkpoint(tmp_path / "b.pt", 2, **model),
    ]
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    with allowed, pytest.raises(averaging.BadInput, match=message):
        averaging.average(paths)


@pytest.mark.parametrize("place", ["args", "cfg"])
def test_weights_that_mean_something_else_are_refused(place: str, tmp_path: Path) -> None:
    """The number of heads shows in the shape of no weight."""
    paths = [write_checkpoint(tmp_path / f"{heads}.pt", heads) for heads in (4, 8)]
    for path in paths:
        state = torch.load(path, weights_only=False)
        options = argparse.Namespace(decoder_attention_heads=int(path.stem), dropout=0.1)
        state |= {"args": options} if place == "args" else {"args": None, "cfg": {"model": options}}
        torch.save(state, path)
    allowed = torch.serialization.safe_globals([argparse.Namespace])
    sentence = "^--decoder-attention-heads is 8 in .*8.pt and 4 in the first checkpoint$"
    with allowed, pytest.raises(averaging.BadInput, match=sentence):
        averaging.average(paths)


def test_too_few_checkpoints_are_refused(checkpoints: Path) -> None:
    output = checkpoints / "average.pt"
    done = run_script(
        "translation/average_checkpoints.py",
        *("--inputs", checkpoints, "--num-epoch-checkpoints", 5, "--output", output),
    )
    assert_refused(done, "holds 4", "5 were requested")
    assert not output.exists()


def test_unsafe_and_truncated_files_are_refused(tmp_path: Path) -> None:
    unsafe = tmp_path / "unsafe.pt"
    torch.save({"model": {}, "args": os.system}, unsafe)
    truncated = write_checkpoint(tmp_path / "truncated.pt", 1)
    truncated.write_bytes(truncated.read_bytes()[:-100])
    for path in (unsafe, truncated):
        with pytest.raises(averaging.BadInput, match=path.name):
            averaging.load_checkpoint(path)
