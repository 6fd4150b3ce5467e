"""Read and write the files of a corpus: lines of text, and the index of binarised data."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from scripts.lib.command_line import BadInput

# The first bytes of every index that fairseq-preprocess writes: magic, version, code of the type of
# the tokens, number of sentences. They are read here because importing fairseq takes seconds.
INDEX_HEADER = struct.Struct("<9sQBQ")
MAGIC, VERSION = b"MMIDIDX\x00\x00", 1


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 file, which may be gzipped (``.gz``).

    Lines end at line feeds only, as fairseq and sacreBLEU count them.

    Raises:
        BadInput: if the file cannot be read or is not UTF-8.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            text = file.read().decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot read {path}: {reason}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not valid UTF-8") from error
    return text.removesuffix("\n").split("\n") if text else []


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write ``lines`` to ``path`` in one step: a reader finds the old file or the new one."""
    # Imported here since it brings torch, which the workers that clean text need not hold.
    from revcol_nlp.checkpoints.integrity import write_atomically

    with write_atomically(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def count_binarised_sentences(index: Path) -> int:
    """Read from an index of fairseq-preprocess how many sentences it lists.

    Raises:
        BadInput: if the file is not such an index.
    """
    with index.open("rb") as file:
        header = file.read(INDEX_HEADER.size)
    if len(header) == INDEX_HEADER.size:
        magic, version, _, sentences = INDEX_HEADER.unpack(header)
        if (magic, version) == (MAGIC, VERSION):
            return sentences
    raise BadInput(f"{index} is not an index that fairseq-preprocess wrote in its 'mmap' format")
