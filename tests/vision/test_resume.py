"""A run that is interrupted anywhere resumes and ends as if nothing had happened."""

import argparse
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.images import (
    EVERYTHING,
    TINY,
    assert_same_run,
    build,
    make_images,
    rows,
    sentence,
    status,
    train,
)
from vision.training import report
from vision.training.checkpoints import read_checkpoint
from vision.training.command import UserError, explain_write_errors


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    """The folder of a run that was never interrupted: 3 epochs of 5 updates, everything on."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(data, *TINY, *EVERYTHING, "--output", folder)
    assert len(rows(folder)) == 3
    return folder


def start(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vision.train", *map(str, args)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def test_a_run_killed_within_an_epoch_resumes_bit_for_bit(data, undisturbed, tmp_path):
    command = (data, *TINY, *EVERYTHING, "--output", tmp_path, "--log-interval", 1)
    process = start(*command, "--workers", 2)
    wait_for(process, "epoch 2/3, update 3/5")
    process.kill()
    process.communicate()
    assert len(rows(tmp_path)) == 1
    train(*command)
    assert_same_run(tmp_path, undisturbed)


def test_an_interrupt_saves_and_says_so(data, undisturbed, tmp_path):
    command = (data, *TINY, *EVERYTHING, "--output", tmp_path, "--log-interval", 1)
    process = start(*command, "--workers", 2)
    wait_for(process, "epoch 2/3, update 3/5")
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: its workers get it as well
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("interrupted after update ") and errors.count("\n") == 1
    assert list(tmp_path.glob("recovery-1-*")) or list(tmp_path.glob("recovery-2-*"))
    train(*command)
    assert_same_run(tmp_path, undisturbed)


class Killed(BaseException):
    """Stands for kill -9: the project catches it nowhere."""


def kill_at(monkeypatch, module: object, name: str, file: str, time: int, torn: bool) -> None:
    """Ends the run when ``module.name`` is about to make ``file`` for the ``time``-th time.

    With ``torn``, half of the file is there.
    """
    original, calls = getattr(module, name), []

    def function(content: object, path: str | Path):
        if Path(path).name.startswith(file):
            calls.append(path)
            if len(calls) == time:
                if torn:
                    original(content, path)
                    Path(path).write_bytes(
                        Path(path).read_bytes()[: Path(path).stat().st_size // 2]
                    )
                raise Killed
        return original(content, path)

    monkeypatch.setattr(module, name, function)


# An epoch of 5 updates has a recovery file after its second and its fourth.
@pytest.mark.parametrize(
    ("module", "name", "file", "time", "torn", "resumes_from"),
    [
        pytest.param(torch, "save", "recovery", 3, False, "last", id="before a recovery file"),
        pytest.param(torch, "save", "recovery", 4, True, "recovery-1-2", id="in a recovery file"),
        pytest.param(
            report, "plot_curves", ".curve", 2, False, "recovery-1-4", id="after the table"
        ),
        pytest.param(torch, "save", "tmp", 2, True, "recovery-1-4", id="in an epoch's checkpoint"),
        pytest.param(os, "replace", "last", 2, False, "tmp", id="last removed, none in its place"),
        pytest.param(
            os, "link", "checkpoint-2", 1, False, "last", id="before the epoch's own file"
        ),
        pytest.param(os, "link", "model_best", 1, False, "last", id="before the best file"),
    ],
)
def test_a_run_killed_while_it_writes_resumes_bit_for_bit(
    module, name, file, time, torn, resumes_from, data, undisturbed, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO")
    command = (data, *TINY, *EVERYTHING, "--output", tmp_path)
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, file, time, torn)
        with pytest.raises(Killed):
            status("train", *command)
    train(*command)
    assert f"resuming from {tmp_path / resumes_from}.pth.tar" in caplog.text
    assert ("skipped: " in caplog.text) == torn
    assert_same_run(tmp_path, undisturbed)


def test_a_finished_run_says_so_and_reports_again(data, undisturbed, caplog, capsys):
    caplog.set_level("INFO")
    before = rows(undisturbed), read_checkpoint(undisturbed / "last.pth.tar")["epoch"]
    train(data, *TINY, *EVERYTHING, "--output", undisturbed)
    assert "this run is finished: it has had its 3 epochs" in caplog.text
    assert (
        f"best checkpoint               {undisturbed}/model_best.pth.tar" in capsys.readouterr().out
    )
    assert before == (rows(undisturbed), read_checkpoint(undisturbed / "last.pth.tar")["epoch"])


def test_other_settings_are_refused_and_harmless_ones_are_not(data, undisturbed, tmp_path, capsys):
    command = (data, *TINY, *EVERYTHING, "--output", undisturbed)
    error = sentence(capsys, "train", *command, "--lr", 0.5, "--seed", 1)
    assert "--lr was 0.01 and is 0.5; --seed was 42 and is 1" in error
    error = sentence(capsys, "train", *command, "--no-resume")
    assert "holds a run" in error
    train(*command, "--workers", 1, "--log-interval", 3, "--checkpoint-interval", 1)

    other = make_images(tmp_path / "more", train=15)
    error = sentence(capsys, "train", other, *TINY, *EVERYTHING, "--output", undisturbed)
    assert "there were 42 images and are 45" in error
    (other / "train/cat").rename(other / "train/cow")
    (other / "val/cat").rename(other / "val/cow")
    error = sentence(capsys, "train", other, *TINY, *EVERYTHING, "--output", undisturbed)
    assert "only in the run" in error and ": cat;" in error and ": cow)" in error


def test_a_folder_without_a_complete_checkpoint_starts_from_the_beginning(data, tmp_path, caplog):
    (tmp_path / "last.pth.tar").write_text("no checkpoint")
    train(data, *TINY, "--epochs", 1, "--output", tmp_path)
    assert f"skipped: {tmp_path}/last.pth.tar is damaged" in caplog.text
    assert len(rows(tmp_path)) == 1


@pytest.fixture
def no_permissions():
    """Inside, torch's safe loading allows no class beyond plain data."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)


def test_checkpoints_hold_plain_data_that_torch_loads_without_permission(
    undisturbed, no_permissions
):
    for name in ("last", "model_best"):
        file = undisturbed / f"{name}.pth.tar"
        assert torch.serialization.get_unsafe_globals_in_checkpoint(file) == []
        state = torch.load(file, weights_only=True)
        assert state["options"]["lr"] == 0.01 and state["arch"] == "test_vit"


@pytest.mark.parametrize("allowed", [[], [argparse.Namespace]])
def test_reading_leaves_torchs_permissions_as_they_were(
    allowed, data, undisturbed, no_permissions, tmp_path
):
    """Also those for checkpoints of fairseq, which hold a Namespace, and in all ways to read."""
    torch.serialization.add_safe_globals(allowed)
    file = undisturbed / "last.pth.tar"
    command = (data, *TINY, *EVERYTHING, "--epochs", 3, "--output")
    train(*command, undisturbed)
    assert status("validate", data, "--checkpoint", file, "--workers", 0) == 0
    for option in ("--initial-checkpoint", "--pretrained-path"):
        build(*command, tmp_path, option, file)
    assert torch.serialization.get_safe_globals() == allowed


@pytest.mark.parametrize("allowed", [[], [argparse.Namespace]])
def test_a_checkpoint_of_an_earlier_version_is_refused_in_a_sentence(
    allowed, data, undisturbed, no_permissions, tmp_path, capsys
):
    torch.serialization.add_safe_globals(allowed)
    state = read_checkpoint(undisturbed / "last.pth.tar")
    state["args"] = argparse.Namespace(**state.pop("options"))
    old = tmp_path / "old/last.pth.tar"
    old.parent.mkdir()
    torch.save(state, old)
    content = old.read_bytes()
    expected = f"{old} was saved by an earlier version of vision.train"
    assert expected in sentence(capsys, "validate", data, "--checkpoint", old)
    command = (data, *TINY, *EVERYTHING, "--output")
    assert expected in sentence(capsys, "train", *command, old.parent)
    assert old.read_bytes() == content, "a run is not overwritten"
    network = build(*command, tmp_path / "new", "--initial-checkpoint", old).network
    torch.testing.assert_close(network.state_dict(), state["state_dict_ema"], rtol=0, atol=0)


def test_only_errors_of_the_disk_are_called_a_full_disk(data, tmp_path, capsys, monkeypatch):
    command = (data, *TINY, "--epochs", 1, "--output", tmp_path)

    def fail_with(error):
        def save(*args):
            raise error

        monkeypatch.setattr(torch, "save", save)

    fail_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    error = sentence(capsys, "train", *command)
    assert f"{tmp_path} cannot be written to (No space left on device): is the disk full?" in error
    for other in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("NCCL error")):
        fail_with(other)
        with pytest.raises(RuntimeError, match=str(other)):
            status("train", *command)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("count", [1, 1000, 1_000_000])
def test_torchs_error_of_a_full_disk_is_recognised(count):
    with pytest.raises(UserError, match="is the disk full"), explain_write_errors(Path("/dev")):
        torch.save(torch.zeros(count), "/dev/full")
