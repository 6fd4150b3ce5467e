"""A training that is killed at any moment resumes with the same command, and ends as if nothing had
happened: bit-identical parameters and optimiser state, and no file left over.

The moments are random, from a seed. By default one of each kind is tried: in a step, in a write,
in validation.
"""

import signal
from pathlib import Path

import pytest

from revcol_nlp.checkpoints.integrity import is_complete
from tests.helpers.checkpoints import assert_same_state
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING
from tests.helpers.kills import NUMBERS, STEP, VALIDATION, WRITE, Kill, Training, Watch


@pytest.fixture(scope="module")
def training(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """fairseq-train: 2 epochs of 5 updates, a checkpoint each fourth, dropout on."""
    return Training(
        *("fairseq-train", toy_data, *TINY_MODEL, *TRAINING, "--encoder-columns", "3"),
        *("--dropout", "0.1", "--encoder-drop-path", "0.1", "--max-epoch", "2"),
        *("--save-interval-updates", "4"),
        option="--save-dir",
        folder=tmp_path_factory.mktemp("translation"),
    )


def assert_resumes(training: Training, folder: Path) -> None:
    resumed, undisturbed = training.resume(folder)
    for name in ("checkpoint_last.pt", "checkpoint_best.pt"):
        assert_same_state(resumed / name, undisturbed / name)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_killed_training_resumes_bit_for_bit(
    training: Training, tmp_path: Path, number: int
) -> None:
    training.kill_and_check(number, tmp_path, lambda folder: assert_resumes(training, folder))


@pytest.mark.slow
def test_a_training_killed_again_and_again_resumes_bit_for_bit(
    training: Training, tmp_path: Path
) -> None:
    training.kill_again_and_again(tmp_path, lambda folder: assert_resumes(training, folder))


@pytest.mark.parametrize(
    "kind", [STEP, *(pytest.param(k, marks=pytest.mark.slow) for k in (WRITE, VALIDATION))]
)
def test_an_interrupted_training_resumes_bit_for_bit(
    training: Training, tmp_path: Path, kind: str
) -> None:
    moment = Kill(kind, training.events[kind] // 2, 0.5, signal.SIGINT)
    interrupted = training.run(tmp_path, Watch(kill=moment))
    assert interrupted.status > 0
    assert interrupted.last_line == "KeyboardInterrupt"
    checkpoints = list((tmp_path / "run").glob("checkpoint*.pt"))
    assert checkpoints and all(map(is_complete, checkpoints))
    assert_resumes(training, tmp_path)
