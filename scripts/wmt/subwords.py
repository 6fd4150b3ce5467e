"""Apply byte pair encoding to a large corpus: count words for learning codes, and split words."""

from __future__ import annotations

from collections import Counter
from functools import cache, partial
from pathlib import Path

from subword_nmt.apply_bpe import BPE

from scripts.lib.line_pool import map_in_order, read_line_chunks, show_progress

MOST_WORDS = 4_000_000  # that codes are learnt from; learning takes a kilobyte for each
CACHED_WORDS = 200_000  # whose splits each worker keeps in memory


def count_chunk_words(lines: list[bytes]) -> tuple[int, Counter[bytes]]:
    """Count the lines of a chunk, and how often each word occurs in it."""
    return len(lines), Counter(word for line in lines for word in line.split())


def count_words(inputs: list[Path], output: Path, workers: int) -> None:
    """Write each word of tokenised files with its count, the most frequent first.

    The rarest words are dropped whenever there are more than `MOST_WORDS`.
    """
    counts: Counter[bytes] = Counter()
    results = map_in_order(count_chunk_words, read_line_chunks(*inputs), workers)
    for _, more in show_progress(results, "count words", lambda result: result[0]):
        counts.update(more)
        rare = 0
        while len(counts) > MOST_WORDS:
            rare += 1
            counts = Counter({word: count for word, count in counts.items() if count > rare})
    with output.open("wb") as file:
        for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            file.write(b"%s %d\n" % (word, count))


@cache
def load_bpe(codes: Path) -> BPE:
    """Load the codes that subword-nmt learnt, once per process."""
    with codes.open(encoding="utf-8") as file:
        return BPE(file)


def encode_chunk(codes: Path, lines: list[bytes]) -> tuple[int, bytes]:
    """Split the words of a chunk into subwords; return its number of lines and its text."""
    bpe = load_bpe(codes)
    if len(bpe.cache) > CACHED_WORDS:
        bpe.cache.clear()
    text = "".join(bpe.segment(line.decode().removesuffix("\n")) + "\n" for line in lines)
    return len(lines), text.encode()


def encode_files(codes: Path, inputs: list[Path], out: Path, workers: int) -> None:
    """Apply BPE to tokenised files; write files of the same names to the folder ``out``."""
    for source in inputs:
        results = map_in_order(partial(encode_chunk, codes), read_line_chunks(source), workers)
        with (out / source.name).open("wb") as file:
            for _, text in show_progress(
                results, f"apply BPE to {source.name}", lambda result: result[0]
            ):
                file.write(text)
