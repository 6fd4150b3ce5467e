"""Trainings of vision.train in which the disk is full or a folder cannot be written to."""

from pathlib import Path

import pytest

from tests.helpers.images import TINY, assert_same_run, make_images, sentence, train


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, inside: bool, capsys) -> None:
    file = tmp_path / "file"
    file.touch()
    folder = file / "folder" if inside else file
    data = make_images(tmp_path / "images", train=4, val=1)
    error = sentence(capsys, "train", data, *TINY, "--output", folder)
    assert f"error: {folder} cannot be written to" in error


@pytest.mark.parametrize(
    "file",
    [
        *("recovery_tmp.pth.tar", "tmp.pth.tar"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("args.yaml", "summary.csv", "curve.png", "report.json")
        ),
    ],
)
def test_vision_train_resumes_after_a_file_could_not_be_written(
    tmp_path: Path, file: str, capsys
) -> None:
    data = make_images(tmp_path / "images")
    command = (data, *TINY, "--epochs", 2, "--checkpoint-interval", 2, "--output")
    train(*command, tmp_path / "undisturbed")
    full = tmp_path / "full"
    full.mkdir()
    blocked = full / file
    # Other files than checkpoints are written beside their place, under a name of the moment.
    if file.endswith(".tar"):
        blocked.symlink_to("/dev/full")
    else:
        blocked.mkdir()
    assert f"error: {full} cannot be written to" in sentence(capsys, "train", *command, full)
    if file.endswith(".tar"):
        blocked.unlink()
    else:
        blocked.rmdir()
    train(*command, full)
    assert_same_run(full, tmp_path / "undisturbed")
