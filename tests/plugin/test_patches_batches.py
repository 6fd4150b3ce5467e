"""No sentence is dropped, and a resumed training has the same batches."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fairseq.data import data_utils

import revcol_nlp.models  # noqa: F401 (installs the patches)
from tests.helpers.checkpoints import assert_same_state
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, USER_DIR, RunFairseq


@pytest.mark.parametrize("size", [0, 1, 7, 8, 60, 64])
def test_each_sentence_is_in_one_batch(size: int) -> None:
    batches = data_utils.batch_by_size(
        np.arange(size), lambda index: index + 1, max_tokens=2000, required_batch_size_multiple=8
    )
    assert [index for batch in batches for index in batch] == list(range(size))


def test_batches_of_a_whole_multiple_are_those_of_fairseq() -> None:
    arguments = (np.arange(64), lambda index: index + 1)
    options = {"max_tokens": 800, "required_batch_size_multiple": 8}
    theirs = data_utils.batch_by_size.__wrapped__(*arguments, **options)
    ours = data_utils.batch_by_size(*arguments, **options)
    assert [batch.tolist() for batch in ours] == [batch.tolist() for batch in theirs]


def test_generation_returns_as_many_lines_as_went_in(
    trained: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    done = run_fairseq(
        *("generate", toy_data, "--user-dir", USER_DIR, "--cpu", "--num-workers", "0"),
        *("--path", trained / "checkpoint_last.pt", "--beam", "1", "--max-len-b", "10"),
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("H-")]
    assert sorted(int(line.split("\t")[0][2:]) for line in lines) == list(range(60))


def test_a_resumed_training_goes_on_bit_for_bit(
    tmp_path: Path, trained: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    shutil.copy(trained / "checkpoint_3_12.pt", tmp_path / "checkpoint_last.pt")
    run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0.1", "--max-epoch", "3"),
        *("--save-dir", tmp_path),
    )
    assert_same_state(tmp_path / "checkpoint3.pt", trained / "checkpoint3.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    "option", ["--update-ordered-indices-seed", "--update-epoch-batch-itr=True"]
)
def test_options_that_change_the_batches_resume_bit_for_bit(
    tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq, option: str
) -> None:
    train = ("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0.1", *option.split("="))
    run_fairseq(*train, "--max-epoch", "3", "--save-dir", tmp_path / "whole")
    for epochs in (2, 3):
        run_fairseq(*train, "--max-epoch", epochs, "--save-dir", tmp_path / "resumed")
    assert_same_state(*(tmp_path / run / "checkpoint3.pt" for run in ("resumed", "whole")))
