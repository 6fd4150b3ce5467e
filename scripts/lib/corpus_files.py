"""Files of a corpus: lines of text, and the index of what fairseq-preprocess binarised."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from scripts.lib.command_line import BadInput

INDEX_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of the items, number of sentences


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, broken at line feeds only."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not valid UTF-8") from error
    return text.removesuffix("\n").split("\n") if text else []


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write `lines` to `path`, which is replaced only by a whole file."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    partial.replace(path)


def binarised_sentences(index: Path) -> int:
    """How many sentences fairseq-preprocess wrote, by their index."""
    with index.open("rb") as file:
        header = file.read(INDEX_HEADER.size)
    if len(header) < INDEX_HEADER.size or not header.startswith(b"MMIDIDX"):
        raise BadInput(f"{index} is not an index of fairseq-preprocess's 'mmap' format")
    *_, sentences = INDEX_HEADER.unpack(header)
    return sentences
