"""Binarised corpora that are cut short, overwritten or of another dictionary are called that.

Each function stands in for one of fairseq's, which it gets as its first argument.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset, indexed_dataset

INDEX_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of the items, number of sentences
MMAP_MAGIC = b"MMIDIDX\x00\x00"
SLICE = 1 << 20  # sentences of an index that are in memory at once
OTHER_MAGICS = (b"TNTIDX\x00\x00", b"HUFFIDX\x00\x00")  # fairseq's older formats


class DamagedDataError(RuntimeError):
    """A file of fairseq-preprocess is cut short, overwritten, or of another dictionary."""


def load_checked(
    original: Callable, path: str, dictionary: Dictionary | None = None, *args: Any, **kwargs: Any
) -> FairseqDataset | None:
    """``data_utils.load_indexed_dataset``.

    Raises:
        DamagedDataError: if a file does not fit its index.
    """
    check_files(Path(f"{path}.idx"), Path(f"{path}.bin"))
    dataset = original(path, dictionary, *args, **kwargs)
    for part in getattr(dataset, "datasets", [dataset]):
        if dictionary is not None and isinstance(part, indexed_dataset.MMapIndexedDataset):
            part.entries = len(dictionary)  # for `item_checked`
    return dataset


def item_checked(
    original: Callable, self: indexed_dataset.MMapIndexedDataset, index: int
) -> torch.Tensor:
    """``MMapIndexedDataset.__getitem__``: a token that the dictionary has not got would be an error
    deep in the embedding, and on a GPU one that does not even name it.

    Raises:
        DamagedDataError: if there is such a token.
    """
    tokens, entries = original(self, index), getattr(self, "entries", None)
    if entries is not None and len(tokens):
        low, high = (int(token) for token in torch.aminmax(tokens))
        if low < 0 or high >= entries:
            raise DamagedDataError(
                f"sentence {index} of {self._path}.bin has the token {low if low < 0 else high}, "
                f"and its dictionary {entries} entries: the file is damaged, or was made with "
                "another dictionary; make it again with fairseq-preprocess"
            )
    return tokens


def check_files(index: Path, data: Path) -> None:
    """Compare the size of an index with what it says, and of the data with what the index says.

    Raises:
        DamagedDataError: if they differ, or the index is none.
    """
    if not (index.is_file() and data.is_file()):
        return  # fairseq says what is missing
    with index.open("rb") as file:
        header = file.read(INDEX_HEADER.size)
    if header.startswith(OTHER_MAGICS):
        return
    fault = _fault(index, header, data.stat().st_size)
    if fault is not None:
        raise DamagedDataError(
            f"{index.with_suffix('')}.idx and .bin do not fit each other ({fault}): a file is cut "
            "short or overwritten; make them again with fairseq-preprocess"
        )


def _fault(index: Path, header: bytes, data_size: int) -> str | None:
    if not header.startswith(MMAP_MAGIC) or len(header) < INDEX_HEADER.size:
        return "the index is none of fairseq-preprocess's"
    _, version, code, count = INDEX_HEADER.unpack(header)
    if version != 1 or code not in indexed_dataset._code_to_dtype:
        return "the index is none of fairseq-preprocess's"
    expected, found = INDEX_HEADER.size + count * (4 + 8), index.stat().st_size
    if found != expected:
        return f"an index of {count} sentences has {expected} bytes, and this one {found}"
    if count == 0:
        return None if data_size == 0 else f"the data should have 0 bytes, and has {data_size}"
    sizes = np.memmap(index, np.int32, "r", INDEX_HEADER.size, count)
    starts = np.memmap(index, np.int64, "r", INDEX_HEADER.size + 4 * count, count)
    width = np.dtype(indexed_dataset._code_to_dtype[code]).itemsize
    end = 0
    for first in range(0, count, SLICE):
        part = slice(first, first + SLICE)
        ends = end + np.cumsum(sizes[part], dtype=np.int64) * width
        if (sizes[part] < 0).any() or not (
            starts[first] == end and np.array_equal(starts[part][1:], ends[:-1])
        ):
            return "sentences do not follow each other"
        end = int(ends[-1])
    if data_size != end:
        return f"the data should have {end} bytes, and has {data_size}"
    return None
