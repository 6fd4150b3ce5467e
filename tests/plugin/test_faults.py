"""Trainings in which something goes wrong: memory, numbers, the disk."""

import errno
import gc
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

import revcol_nlp.models  # noqa: F401 (installs the patches)
from revcol_nlp.checkpoints.errors import UnwritableError
from revcol_nlp.checkpoints.integrity import is_complete
from revcol_nlp.columns.verify import compute_gradients
from tests.helpers.checkpoints import assert_same_state, load
from tests.helpers.columns import build, loss_of, stem_output
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING
from tests.helpers.faults import (
    BACKWARD,
    FORWARD,
    REBUILDING,
    NotANumber,
    OutOfMemory,
    out_of_memory,
    without_waiting,
)
from tests.helpers.forked import Ended, run_forked


@pytest.fixture
def fairseq_train(toy_data: Path) -> Callable[..., Ended]:
    """``fairseq_train(folder, *args, prepare=None)``, its checkpoints in ``folder / "run"``."""

    def run(folder: Path, *args: object, prepare: Callable[[], None] | None = None) -> Ended:
        folder.mkdir(exist_ok=True)
        return run_forked(
            *("fairseq-train", toy_data, *TINY_MODEL, *TRAINING, "--encoder-columns", "4"),
            *("--dropout", "0.1", "--encoder-drop-path", "0.1", "--max-epoch", "2"),
            *("--save-dir", folder / "run", *args),
            folder=folder,
            prepare=prepare,
        )

    return run


# Memory


def tensors_alive() -> int:
    gc.collect()
    return sum(isinstance(found, torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize("level", [1, 6])
@pytest.mark.parametrize("where", [FORWARD, REBUILDING, BACKWARD])
def test_a_step_without_memory_leaves_nothing_behind(where: str, level: int) -> None:
    model, stem = build(columns=4, dropout=0.1, drop_path_rate=0.1), stem_output().requires_grad_()
    expected = compute_gradients(model, stem, reversible=True)
    alive = tensors_alive()
    model.train()

    def step() -> None:
        with out_of_memory(where, level) as happened, suppress(torch.OutOfMemoryError):
            loss = loss_of(model(stem))
            random_state = torch.get_rng_state()
            loss.backward()
        assert happened == [where]
        assert where == FORWARD or torch.equal(torch.get_rng_state(), random_state)

    step()
    model.zero_grad()
    stem.grad = None
    assert tensors_alive() == alive
    found = compute_gradients(model, stem, reversible=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_batches_without_memory_are_skipped_as_with_plain_columns(
    fairseq_train: Callable[..., Ended], tmp_path: Path
) -> None:
    for name, options in {"reversible": (), "plain": ("--encoder-no-reversible",)}.items():
        prepare = OutOfMemory(reversible=name == "reversible")
        ended = fairseq_train(tmp_path / name, *options, prepare=prepare)
        assert ended.status == 0, ended.output[-3000:]
        assert ended.output.count("attempting to recover from OOM") == 3
    last = [tmp_path / name / "run/checkpoint_last.pt" for name in ("reversible", "plain")]
    assert load(last[0])["optimizer_history"][-1]["num_updates"] == 10 - 3
    assert_same_state(*last)


# Numbers


def test_an_update_that_is_not_a_number_is_skipped_under_loss_scaling(
    fairseq_train: Callable[..., Ended], tmp_path: Path
) -> None:
    for name, options in {"reversible": (), "plain": ("--encoder-no-reversible",)}.items():
        half = ("--fp16", "--fp16-no-flatten-grads")
        ended = fairseq_train(tmp_path / name, *half, *options, prepare=NotANumber(when=4))
        assert ended.status == 0, ended.output[-3000:]
        assert "setting loss scale to: 64.0" in ended.output
    last = [tmp_path / name / "run/checkpoint_last.pt" for name in ("reversible", "plain")]
    assert load(last[0])["optimizer_history"][-1]["num_updates"] == 10 - 1
    assert all(weight.isfinite().all() for weight in load(last[0])["model"].values())
    assert_same_state(*last)


# The disk


@pytest.mark.parametrize(
    "file", ["checkpoint_1_4.pt", pytest.param("checkpoint_last.pt", marks=pytest.mark.slow)]
)
def test_fairseq_train_goes_on_after_the_disk_was_full(
    fairseq_train: Callable[..., Ended], tmp_path: Path, file: str
) -> None:
    undisturbed, full = tmp_path / "undisturbed", tmp_path / "full"
    options = ("--save-interval-updates", "2")
    assert fairseq_train(undisturbed, *options).status == 0
    (full / "run").mkdir(parents=True)
    (full / "run" / f"{file}.tmp").symlink_to("/dev/full")
    ended = fairseq_train(full, *options, prepare=without_waiting)
    assert ended.status == 1
    assert f"{full}/run/{file} cannot be written (No space left on device)" in ended.last_line
    kept = list((full / "run").iterdir())
    assert kept and all(path.suffix == ".pt" and is_complete(path) for path in kept)
    assert fairseq_train(full, *options).status == 0
    assert_same_state(*(folder / "run/checkpoint_last.pt" for folder in (full, undisturbed)))


class FullAt(io.FileIO):
    """A file on a disk that is full after so many bytes, until something is removed from it."""

    def __init__(self, path: Path, room: int):
        super().__init__(path, "wb")
        self.room = room

    def write(self, content: bytes) -> int:
        if self.room is not None and self.tell() + len(content) > self.room:
            super().write(bytes(content)[: self.room - self.tell()])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)

    def truncate(self, size: int | None = None) -> int:
        self.room = None
        return super().truncate(size)


@pytest.mark.parametrize("room", [0, 1, 700, 5000, 10_000])
def test_a_second_attempt_at_a_write_does_not_go_on_where_the_first_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr("revcol_nlp.fairseq_patches.checkpoints.SECONDS_TO_WAIT", (0,))
    content = {"weight": torch.randn(3000)}
    with FullAt(tmp_path / "checkpoint.pt", room) as file:
        checkpoint_utils._torch_persistent_save(content, file)
    assert is_complete(tmp_path / "checkpoint.pt")
    torch.testing.assert_close(torch.load(tmp_path / "checkpoint.pt"), content, rtol=0, atol=0)


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, inside: bool) -> None:
    file = tmp_path / "file"
    file.touch()
    folder = file / "folder" if inside else file
    with pytest.raises(UnwritableError, match=f"--save-dir {folder} is not a folder that can be"):
        checkpoint_utils.verify_checkpoint_directory(str(folder))
