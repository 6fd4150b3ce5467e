"""Byte pair encoding of a large corpus: count its words to learn from, and split it."""

from __future__ import annotations

from collections import Counter
from functools import cache, partial
from pathlib import Path

from subword_nmt.apply_bpe import BPE

from scripts.lib.line_pool import in_order, line_chunks, shown

MOST_WORDS = 4_000_000  # counted and learnt from; learning BPE takes a kilobyte for each
CACHED_WORDS = 200_000  # that each worker remembers how to split


def words_of(lines: list[bytes]) -> tuple[int, Counter[bytes]]:
    """How many lines there are, and how often each of their words occurs."""
    return len(lines), Counter(word for line in lines for word in line.split())


def count_words(inputs: list[Path], output: Path, workers: int) -> None:
    """Write each word of tokenised files with its count, the most frequent first.

    Where there would be more than MOST_WORDS, those seen least are let go.
    """
    counts: Counter[bytes] = Counter()
    results = in_order(words_of, line_chunks(*inputs), workers)
    for _, more in shown(results, "count words", lambda result: result[0]):
        counts.update(more)
        rare = 0
        while len(counts) > MOST_WORDS:
            rare += 1
            counts = Counter({word: count for word, count in counts.items() if count > rare})
    with output.open("wb") as file:
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            file.write(b"%s %d\n" % (word, count))


@cache
def merges(codes: Path) -> BPE:
    """What splits words into the symbols that were learnt."""
    with codes.open(encoding="utf-8") as file:
        return BPE(file)


def encode(codes: Path, lines: list[bytes]) -> tuple[int, bytes]:
    """How many lines there are, and their text, words split into symbols."""
    bpe = merges(codes)
    if len(bpe.cache) > CACHED_WORDS:
        bpe.cache.clear()
    text = "".join(bpe.segment(line.decode().removesuffix("\n")) + "\n" for line in lines)
    return len(lines), text.encode()


def encode_files(codes: Path, inputs: list[Path], out: Path, workers: int) -> None:
    """Apply BPE to tokenised files; those of the same names in the folder `out` receive it."""
    for source in inputs:
        results = in_order(partial(encode, codes), line_chunks(source), workers)
        with (out / source.name).open("wb") as file:
            for _, text in shown(results, f"apply BPE to {source.name}", lambda result: result[0]):
                file.write(text)
