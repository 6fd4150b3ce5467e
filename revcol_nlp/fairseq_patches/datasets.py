"""A patch of loading binarised data: truncated, overwritten or mismatched files are refused."""

import itertools
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from fairseq.data import Dictionary, FairseqDataset, indexed_dataset

from ..checkpoints.errors import DamagedDataError

INDEX_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of the items, number of sentences
MMAP_MAGIC = b"MMIDIDX\x00\x00"
OTHER_MAGICS = (b"TNTIDX\x00\x00", b"HUFFIDX\x00\x00")  # fairseq's older formats
SLICE = 1 << 20  # so many entries of a file are in memory at once


class _Index(NamedTuple):
    sizes: np.ndarray  # (sentences,) int32, in tokens
    starts: np.ndarray  # (sentences,) int64, in bytes
    dtype: np.dtype  # of a token


def load_checked_dataset(
    original: Callable,
    path: str,
    dictionary: Dictionary | None = None,
    dataset_impl: str | None = None,
    combine: bool = False,
    **kwargs: Any,
) -> FairseqDataset | None:
    """Replaces ``data_utils.load_indexed_dataset``.

    Raises:
        DamagedDataError: if a file does not fit its index, or a token is not in the dictionary.
    """
    for number in itertools.count():
        part = f"{path}{number or ''}"
        index, data = Path(f"{part}.idx"), Path(f"{part}.bin")
        if not (index.is_file() and data.is_file()):
            break  # fairseq says so where a file is missing
        check_files(index, data, None if dictionary is None else len(dictionary))
        if not combine:
            break
    return original(path, dictionary, dataset_impl, combine, **kwargs)


def check_files(index: Path, data: Path, dictionary_size: int | None = None) -> None:
    """Compare an index with its own header, the data with the index, and tokens with a dictionary.

    A token beyond the dictionary would be an error deep in the embedding, and on a GPU one that
    does not even name it. fairseq reads both files from end to end when it loads them, too.

    Args:
        index: a file of fairseq-preprocess; one of an older format than mmap is not checked.
        data: the ``.bin`` file beside it.
        dictionary_size: the number of entries, or None where any number may occur.

    Raises:
        DamagedDataError: if they do not fit each other.
    """
    with index.open("rb") as file:
        header = file.read(INDEX_HEADER.size)
    if header.startswith(OTHER_MAGICS):
        return
    found = _read_index(index, header, data.stat().st_size)
    if isinstance(found, str):
        raise DamagedDataError(
            f"{index.with_suffix('')}.idx and .bin do not fit each other ({found}): a file is "
            "truncated or overwritten; make them again with fairseq-preprocess"
        )
    if dictionary_size is not None and data.stat().st_size > 0:
        _check_tokens(data, found, dictionary_size)


def _read_index(index: Path, header: bytes, data_size: int) -> _Index | str:
    """Read an index; a string says what is wrong with it."""
    if not header.startswith(MMAP_MAGIC) or len(header) < INDEX_HEADER.size:
        return "the index was not written by fairseq-preprocess"
    _, version, code, count = INDEX_HEADER.unpack(header)
    if version != 1 or code not in indexed_dataset._code_to_dtype:
        return "the index was not written by fairseq-preprocess"
    dtype = np.dtype(indexed_dataset._code_to_dtype[code])
    expected, found = INDEX_HEADER.size + count * (4 + 8), index.stat().st_size
    if found != expected:
        return f"an index of {count} sentences has {expected} bytes, and this one has {found}"
    if count == 0:
        empty = _Index(np.empty(0, np.int32), np.empty(0, np.int64), dtype)
        return empty if data_size == 0 else f"the data should have 0 bytes, and has {data_size}"
    sizes = np.memmap(index, np.int32, "r", INDEX_HEADER.size, count)
    starts = np.memmap(index, np.int64, "r", INDEX_HEADER.size + 4 * count, count)
    end = 0
    for first in range(0, count, SLICE):
        part = slice(first, first + SLICE)
        ends = end + np.cumsum(sizes[part], dtype=np.int64) * dtype.itemsize
        if (sizes[part] < 0).any() or not (
            starts[first] == end and np.array_equal(starts[part][1:], ends[:-1])
        ):
            return "sentences do not follow each other"
        end = int(ends[-1])
    if data_size != end:
        return f"the data should have {end} bytes, and has {data_size}"
    return _Index(sizes, starts, dtype)


def _check_tokens(data: Path, index: _Index, dictionary_size: int) -> None:
    tokens = np.memmap(data, index.dtype, "r")
    for first in range(0, len(tokens), SLICE):
        part = tokens[first : first + SLICE]
        if part.min() >= 0 and part.max() < dictionary_size:
            continue
        place = first + int(np.argmax((part < 0) | (part >= dictionary_size)))
        start = place * index.dtype.itemsize
        sentence = int(np.searchsorted(index.starts, start, side="right")) - 1
        raise DamagedDataError(
            f"sentence {sentence} of {data} has the token {int(tokens[place])}, and its dictionary "
            f"has {dictionary_size} entries: the file is damaged, or was made with another "
            "dictionary; make it again with fairseq-preprocess"
        )
