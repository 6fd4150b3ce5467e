"""A run of vision.train that is killed at any moment resumes with the same command, and ends as if
nothing had happened: bit-identical weights, and no file left over.

The moments are random, from a seed. By default one of each kind is tried: in a step, in a write,
in validation.
"""

from pathlib import Path

import pytest

from tests.helpers.images import EVERYTHING, TINY, assert_same_run, make_images
from tests.helpers.kills import NUMBERS, Training


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """vision.train: 2 epochs of 5 updates, a recovery file each second, everything on."""
    return Training(
        *("vision.train", make_images(tmp_path_factory.mktemp("images")), *TINY),
        *("--model", "test_revcol_vit", "--model-kwargs", "proj_drop_rate=0.1", *EVERYTHING),
        *("--epochs", 2),
        option="--output",
        folder=tmp_path_factory.mktemp("vision"),
    )


@pytest.mark.parametrize("number", NUMBERS)
def test_a_killed_run_resumes_bit_for_bit(training: Training, tmp_path: Path, number: int) -> None:
    training.kill_and_check(
        number, tmp_path, lambda folder: assert_same_run(*training.resume(folder))
    )


@pytest.mark.slow
def test_a_run_killed_again_and_again_resumes_bit_for_bit(
    training: Training, tmp_path: Path
) -> None:
    training.kill_again_and_again(
        tmp_path, lambda folder: assert_same_run(*training.resume(folder))
    )
