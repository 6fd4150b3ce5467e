"""Fixtures that several test modules share: data sets and a trained model, each made once."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.fairseq_commands import (
    TINY_MODEL,
    TRAINING,
    FairseqRunner,
    RunFairseq,
)
from tests.helpers.wmt_mirror import write_made_up_mirror


@pytest.fixture(autouse=True)
def keep_safe_globals() -> Iterator[None]:
    """Give back what a test takes from torch's list of classes that safe loading may read.

    timm's reader of checkpoints takes ``argparse.Namespace`` off it when it ends, also where the
    plugin had put it there; the next test of fairseq in this process would fail.
    """
    before = torch.serialization.get_safe_globals()
    yield
    now = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([found for found in before if found not in now])


@pytest.fixture(scope="session")
def run_fairseq(tmp_path_factory: pytest.TempPathFactory) -> RunFairseq:
    """``run_fairseq(command, *args, check=True, processes=1, input=None, **environment)`` runs
    ``fairseq_cli.<command>``; see `FairseqRunner`."""
    return FairseqRunner(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory, run_fairseq: RunFairseq) -> Path:
    """A folder of 200 training, 20 validation and 60 test pairs, binarised, one joined dictionary.

    A target is its source in reverse. The text is in the parent folder: ``train.src``,
    ``train.tgt`` and so on.
    """
    folder = tmp_path_factory.mktemp("toy")
    chance = random.Random(0)
    words = [f"w{i}" for i in range(30)]
    for split, size in {"train": 200, "valid": 20, "test": 60}.items():
        source = [chance.choices(words, k=chance.randint(2, 12)) for _ in range(size)]
        target = [sentence[::-1] for sentence in source]
        for language, sentences in {"src": source, "tgt": target}.items():
            text = "".join(" ".join(sentence) + "\n" for sentence in sentences)
            (folder / f"{split}.{language}").write_text(text)
    run_fairseq(
        "preprocess",
        *("--source-lang", "src", "--target-lang", "tgt", "--joined-dictionary"),
        *("--trainpref", folder / "train", "--validpref", folder / "valid"),
        *("--testpref", folder / "test", "--destdir", folder / "data-bin"),
    )
    return folder / "data-bin"


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, toy_data: Path, run_fairseq: RunFairseq
) -> Path:
    """A folder of checkpoints: three epochs of five updates on ``toy_data``, with dropout 0.1.

    It has one checkpoint per epoch and one every four updates. Tests must not write to it.
    """
    folder = tmp_path_factory.mktemp("trained")
    run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--dropout", "0.1", "--max-epoch", "3"),
        *("--save-interval-updates", "4", "--save-dir", folder),
    )
    return folder


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made-up archives of WMT, listed in the file archives.txt beside it.

    Tests must not write to it.
    """
    folder = tmp_path_factory.mktemp("wmt") / "mirror"
    write_made_up_mirror(folder)
    return folder
