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
    content = index.read_bytes()
    if content.startswith(OTHER_MAGICS):
        return
    fault = _fault(content, data.stat().st_size)
    if fault is not None:
        raise DamagedDataError(
            f"{index.with_suffix('')}.idx and .bin do not fit each other ({fault}): a file is cut "
            "short or overwritten; make them again with fairseq-preprocess"
        )


def _fault(index: bytes, data_size: int) -> str | None:
    if not index.startswith(MMAP_MAGIC) or len(index) < INDEX_HEADER.size:
        return "the index is none of fairseq-preprocess's"
    _, version, code, count = INDEX_HEADER.unpack_from(index)
    if version != 1 or code not in indexed_dataset._code_to_dtype:
        return "the index is none of fairseq-preprocess's"
    expected = INDEX_HEADER.size + count * (4 + 8)
    if len(index) != expected:
        return f"an index of {count} sentences has {expected} bytes, and this one {len(index)}"
    sizes = np.frombuffer(index, np.int32, count, INDEX_HEADER.size).astype(np.int64)
    starts = np.frombuffer(index, np.int64, count, INDEX_HEADER.size + 4 * count)
    ends = np.cumsum(sizes) * np.dtype(indexed_dataset._code_to_dtype[code]).itemsize
    if (sizes < 0).any() or not np.array_equal(starts, np.concatenate([[0], ends[:-1]])[:count]):
        return "sentences do not follow each other"
    wanted = int(ends[-1]) if count else 0
    if data_size != wanted:
        return f"the data should have {wanted} bytes, and has {data_size}"
    return None
