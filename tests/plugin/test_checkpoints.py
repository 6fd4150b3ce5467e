"""Checkpoints load with torch's safe loading on, and an error says so where one is damaged."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from revcol_nlp.checkpoints.contents import allow_fairseq_globals
from revcol_nlp.checkpoints.errors import (
    DamagedCheckpointError,
    RevColFileError,
    UnusableCheckpointError,
)
from revcol_nlp.checkpoints.integrity import explain_damage, is_complete
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, USER_DIR, RunFairseq


@pytest.fixture(autouse=True)
def only_fairseq_globals() -> Iterator[None]:
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    allow_fairseq_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint_last.pt"
    torch.save({"model": {"weight": torch.randn(1000)}}, path)
    return path


def test_needs_no_fairseq() -> None:
    code = (
        "import sys, revcol_nlp.checkpoints.fingerprint, revcol_nlp.checkpoints.contents as found;"
        "import revcol_nlp.checkpoints.integrity, revcol_nlp.checkpoints.options;"
        "found.allow_fairseq_globals(); sys.exit('fairseq' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=USER_DIR.parent).returncode == 0


def test_errors_about_files_have_one_base_class(checkpoint: Path) -> None:
    os.truncate(checkpoint, 500)
    with pytest.raises(RevColFileError), explain_damage(checkpoint):
        torch.load(checkpoint)


def test_reads_the_namespace_and_the_numpy_meters_of_a_checkpoint(tmp_path: Path) -> None:
    args = argparse.Namespace(arch="revcol_transformer")
    meters = [np.array([1, 2]), np.array(0.5)]
    torch.save({"args": args, "meters": meters}, tmp_path / "checkpoint.pt")
    loaded = torch.load(tmp_path / "checkpoint.pt")
    assert loaded["args"] == args
    assert [meter.tolist() for meter in loaded["meters"]] == [[1, 2], 0.5]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_reads_numpy_meters_written_under_numpy_1_and_2(tmp_path: Path, module: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save(np.array([1, 2]), path, _use_new_zipfile_serialization=False)
    written = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    path.write_bytes(written.replace(b"numpy.core.multiarray", module))
    assert torch.load(path).tolist() == [1, 2]


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return shutil.copy, (__file__, str(self.path))


def test_does_not_execute_a_malicious_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"args": Malicious(tmp_path / "executed")}, path)
    with pytest.raises(UnusableCheckpointError, match=r"shutil\.copy"), explain_damage(path):
        torch.load(path)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()


DAMAGES = {
    "directory cut off": lambda path: os.truncate(path, path.stat().st_size - 300),
    "weights cut off": lambda path: os.truncate(path, 2000),
    "nothing written": lambda path: os.truncate(path, 0),
    "blocks not written": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another file": lambda path: path.write_bytes(b"hello world" * 100),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_says_that_a_checkpoint_is_damaged_and_what_to_use(
    checkpoint: Path, damage: Callable[[Path], Any]
) -> None:
    older, newer, torn = (checkpoint.with_name(f"checkpoint{i}.pt") for i in (1, 2, 3))
    for time, path in enumerate((older, newer, torn)):
        shutil.copy(checkpoint, path)
        os.utime(path, (time, time))
    os.truncate(torn, 500)
    damage(checkpoint)
    with pytest.raises(DamagedCheckpointError) as error, explain_damage(checkpoint):
        torch.load(checkpoint)
    assert f"checkpoint {checkpoint} is damaged" in str(error.value)
    assert f"--restore-file {newer})" in str(error.value)


def test_says_when_there_is_no_complete_checkpoint(checkpoint: Path) -> None:
    os.truncate(checkpoint, 500)
    with (
        pytest.raises(DamagedCheckpointError, match="no complete checkpoint"),
        explain_damage(checkpoint),
    ):
        torch.load(checkpoint)


def test_sees_a_flipped_bit(checkpoint: Path) -> None:
    assert is_complete(checkpoint)
    content = bytearray(checkpoint.read_bytes())
    content[2000] ^= 1
    checkpoint.write_bytes(content)
    assert not is_complete(checkpoint)


def test_leaves_other_errors_alone(checkpoint: Path) -> None:
    with pytest.raises(KeyError), explain_damage(checkpoint):
        torch.load(checkpoint)["args"]
    missing = checkpoint.with_name("missing.pt")
    with pytest.raises(FileNotFoundError) as error, explain_damage(missing):
        torch.load(missing)
    assert error.value.__context__ is None


def test_resuming_from_a_torn_checkpoint_ends_in_one_clear_sentence(
    tmp_path: Path, trained: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    shutil.copy(trained / "checkpoint2.pt", tmp_path)
    shutil.copy(trained / "checkpoint_last.pt", tmp_path)
    os.truncate(tmp_path / "checkpoint_last.pt", 20_000)
    done = run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--save-dir", tmp_path), check=False
    )
    assert done.returncode == 1
    sentence = done.stderr.rstrip().splitlines()[-1]
    assert f"checkpoint {tmp_path / 'checkpoint_last.pt'} is damaged" in sentence
    assert f"--restore-file {tmp_path / 'checkpoint2.pt'}" in sentence


def test_a_kill_while_a_checkpoint_is_copied_leaves_the_old_one_whole(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq.file_io import PathManager

    import revcol_nlp.models  # noqa: F401 (installs the patches)

    def killed_halfway(source: str, destination: str) -> None:
        Path(destination).write_bytes(Path(source).read_bytes()[:500])
        raise KeyboardInterrupt

    before = checkpoint.read_bytes()
    new = checkpoint.with_name("checkpoint2.pt")
    torch.save({"model": {"weight": torch.randn(2000)}}, new)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "copyfile", killed_halfway)
        PathManager.copy(str(new), str(checkpoint), overwrite=True)
    assert checkpoint.read_bytes() == before
    assert PathManager.copy(str(new), str(checkpoint), overwrite=True)
    assert checkpoint.read_bytes() == new.read_bytes()
    assert {path.name for path in checkpoint.parent.iterdir()} == {checkpoint.name, new.name}
