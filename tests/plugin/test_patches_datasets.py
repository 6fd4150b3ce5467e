"""Binarised files that do not fit each other or the dictionary are refused when they are loaded."""

import os
import shutil
from pathlib import Path

import pytest
from fairseq.data import data_utils

import revcol_nlp.models  # noqa: F401 (installs the patches)
from revcol_nlp.checkpoints.errors import DamagedDataError
from tests.helpers.transformers import build_dictionary

ENTRIES = 40  # of the dictionary of toy_data


@pytest.fixture
def data(toy_data: Path, tmp_path: Path) -> str:
    for suffix in ("idx", "bin"):
        shutil.copy(toy_data / f"test.src-tgt.src.{suffix}", tmp_path / f"test.{suffix}")
        shutil.copy(toy_data / f"train.src-tgt.src.{suffix}", tmp_path / f"test1.{suffix}")
    return str(tmp_path / "test")


def test_right_files_are_loaded_as_by_fairseq(data: str) -> None:
    found = data_utils.load_indexed_dataset(data, build_dictionary(ENTRIES), combine=True)
    assert len(found) == 60 + 200
    assert len(data_utils.load_indexed_dataset(data)) == 60
    assert data_utils.load_indexed_dataset(data + "nothing") is None


@pytest.mark.parametrize(
    ("suffix", "size"), [("idx", 30), ("idx", -4), ("bin", -2)], ids=["header", "index", "data"]
)
def test_a_truncated_file_is_refused(data: str, suffix: str, size: int) -> None:
    file = Path(f"{data}.{suffix}")
    os.truncate(file, size if size > 0 else file.stat().st_size + size)
    with pytest.raises(DamagedDataError, match="make them again with fairseq-preprocess"):
        data_utils.load_indexed_dataset(data, build_dictionary(ENTRIES))


def test_every_file_that_is_combined_is_looked_at(data: str) -> None:
    os.truncate(f"{data}1.bin", 10)
    assert len(data_utils.load_indexed_dataset(data)) == 60
    with pytest.raises(DamagedDataError, match=r"test1\.idx and \.bin do not fit"):
        data_utils.load_indexed_dataset(data, combine=True)


@pytest.mark.parametrize("size", [4, 30])
def test_a_token_beyond_the_dictionary_is_named(data: str, size: int) -> None:
    right = data_utils.load_indexed_dataset(data)
    sentence = next(i for i in range(60) if (right[i] >= size).any())
    token = next(int(token) for token in right[sentence] if token >= size)
    words = rf"sentence {sentence} of {data}.bin has the token {token}, .* has {size} entries"
    with pytest.raises(DamagedDataError, match=words):
        data_utils.load_indexed_dataset(data, build_dictionary(size))
