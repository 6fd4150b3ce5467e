"""scripts/quickstart_vision.sh, the second command of the README, and data/make_digits.py."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scripts import assert_refused, run_script
from vision.training.sources import open_source

ROOT = Path(__file__).parents[2]


def find_top1(output: str) -> list[float]:
    """Find all top-1 accuracies in what the script prints."""
    return [float(value) for value in re.findall(r"^(?:best )?top1 +([\d.]+)$", output, re.M)]


def test_digits_are_written_in_class_folders(tmp_path):
    for folder in ("first", "second"):
        command = [sys.executable, "-m", "data.make_digits", tmp_path / folder]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        assert done.stdout.count("images") == 2
    counts = {"train": 1433, "val": 364}
    for split, count in counts.items():
        first, second = (open_source(str(tmp_path / name), split) for name in ("first", "second"))
        assert len(first) == len(second) == count and first.classes == [*"0123456789"]
        targets = np.bincount([first[index][1] for index in range(count)])
        assert targets.min() > 0.09 * count, "a class is rare"
        assert all(first[index][0].size == (8, 8) for index in range(count))
        assert all(
            first[index][0].tobytes() == second[index][0].tobytes() for index in range(count)
        )
    assert np.asarray(Image.open(tmp_path / "first/train/0/001.png")).max() > 200


def test_quickstart_ends_with_a_validated_model_and_a_second_run_reuses_it(tmp_path):
    options = ("--out", tmp_path, "--epochs", 3, "--model", "test_vit")
    first = run_script("quickstart_vision.sh", *options)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "images: made" in first.stderr and "epoch 3/3" in first.stdout
    trained, validated = find_top1(first.stdout)
    assert trained == validated

    second = run_script("quickstart_vision.sh", *options)
    assert "images: there already" in second.stderr and "this run is finished" in second.stdout
    assert find_top1(second.stdout) == [trained, validated]


def test_quickstart_refuses_wrong_options():
    for options in (("--epoch", "4"), ("--epochs", "2"), ("--out",), ("--epochs", "many")):
        assert_refused(run_script("quickstart_vision.sh", *options), options[0])


@pytest.mark.slow
def test_quickstart_trains_a_model_that_reads_digits(tmp_path):
    trained, validated = find_top1(run_script("quickstart_vision.sh", "--out", tmp_path).stdout)
    assert trained == validated > 90
