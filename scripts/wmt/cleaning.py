"""Turn WMT's archives into tokenised text: clean parallel corpora, and read test sets."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from xml.sax.saxutils import unescape

import regex
from sacremoses import MosesPunctNormalizer, MosesTokenizer

from scripts.lib.command_line import BadInput, say
from scripts.lib.corpus_files import write_lines
from scripts.lib.line_pool import map_in_order, read_pair_chunks, show_progress

LONGEST_WORD = 1000  # characters, as in Moses's clean-corpus-n.perl
NOT_PRINTABLE = regex.compile(r"\p{C}")
REASONS = ("misencoded", "empty", "too long", "ratio")  # for dropping a pair
SEGMENT = re.compile(
    r'<doc\b[^>]*?\bdocid="([^"]*)"|<seg\b[^>]*?\bid="?([^">\s]*)"?[^>]*>(.*?)</seg>',
    re.DOTALL | re.IGNORECASE,
)


@contextmanager
def open_member(archive: Path, name: str) -> Iterator[BinaryIO]:
    """Open ``name`` or ``name``.gz in any folder of a tar archive, for reading its text as bytes.

    Raises:
        BadInput: if the archive is damaged or has no such file.
    """
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                found = PurePosixPath(member.name).name
                if member.isfile() and found in (name, f"{name}.gz"):
                    file = tar.extractfile(member)
                    with gzip.open(file) if found.endswith(".gz") else nullcontext(file) as text:
                        yield text
                    return
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(
            f"the archive {archive} is truncated or damaged ({error}): remove it and start again"
        ) from error
    raise BadInput(f"{archive} has no file {name}")


# Cleaning


@cache
def load_moses(language: str) -> tuple[MosesPunctNormalizer, MosesTokenizer]:
    """Load Moses's punctuation normaliser and tokeniser for a language, once per process."""
    return MosesPunctNormalizer(language, perl_parity=True), MosesTokenizer(language)


def tokenise(line: str, language: str, dashes: bool) -> list[str]:
    """Tokenise a line as Moses's scripts do; no token contains white space of any alphabet.

    The scripts are normalize-punctuation.perl, remove-non-printing-char.perl and tokenizer.perl.
    With ``dashes`` (the option -a of the last one), words are split at their hyphens.
    """
    normaliser, tokeniser = load_moses(language)
    # Like the Perl script, normalise the line with its line feed: that moves a full stop out of a
    # quotation at the end of the line.
    line = NOT_PRINTABLE.sub(" ", normaliser.normalize(line + "\n"))
    return tokeniser.tokenize(line, aggressive_dash_splits=dashes)


@dataclass(frozen=True)
class Rules:
    """How to tokenise sentence pairs, and which ones to keep.

    Attributes:
        languages: source and target language.
        dashes: split words at hyphens.
        max_length: maximal number of tokens of a sentence.
        ratio: maximal length of the longer sentence, relative to the shorter one.
    """

    languages: tuple[str, str]
    dashes: bool
    max_length: int
    ratio: float


def decode_line(line: bytes) -> str | None:
    """Decode a line; return None if it is not UTF-8 or holds characters lost in a conversion."""
    try:
        text = line.decode().removesuffix("\n")
    except UnicodeDecodeError:
        return None
    return None if "\N{REPLACEMENT CHARACTER}" in text else text


def find_fault(source: list[str], target: list[str], rules: Rules) -> str | None:
    """Return the reason for dropping a pair of tokenised sentences, or None to keep it."""
    shorter, longer = sorted((len(source), len(target)))
    if shorter == 0:
        return "empty"
    if longer > rules.max_length or max(map(len, source + target)) > LONGEST_WORD:
        return "too long"
    return "ratio" if longer > rules.ratio * shorter else None


def clean_chunk(rules: Rules, chunk: list[list[bytes]]) -> tuple[list[bytes], Counter[str]]:
    """Tokenise and clean a chunk of sentence pairs.

    Returns:
        The text of the pairs that are kept, one item per side; and how many pairs were kept, or
        dropped for which of the `REASONS`.
    """
    kept: list[list[str]] = [[], []]
    counts: Counter[str] = Counter()
    for pair in zip(*chunk, strict=True):
        texts = [decode_line(line) for line in pair]
        if None in texts:
            counts["misencoded"] += 1
            continue
        tokens = [
            tokenise(text, language, rules.dashes)
            for text, language in zip(texts, rules.languages, strict=True)
        ]
        reason = find_fault(*tokens, rules)
        counts[reason or "kept"] += 1
        if reason is None:
            for side, words in zip(kept, tokens, strict=True):
                side.append(" ".join(words) + "\n")
    return ["".join(side).encode() for side in kept], counts


def clean_corpus(
    archive: Path, name: str, rules: Rules, out: Path, workers: int, expected: int | None
) -> None:
    """Clean a corpus; write train.LANGUAGE for both languages and counts.json to ``out``.

    Args:
        archive: tar archive that has the corpus.
        name: file name of the corpus in the archive, up to the language.
        rules: how to tokenise and what to keep.
        out: existing folder.
        workers: number of processes.
        expected: number of sentence pairs of the official corpus, where it is known.

    Raises:
        BadInput: if the archive is damaged, the sides differ in length, or no pair is kept.
    """
    counts: Counter[str] = Counter()
    names = [f"{name}.{language}" for language in rules.languages]
    paths = [out / f"train.{language}" for language in rules.languages]
    with (
        open_member(archive, names[0]) as source,
        open_member(archive, names[1]) as target,
        paths[0].open("wb") as kept_source,
        paths[1].open("wb") as kept_target,
    ):
        results = map_in_order(
            partial(clean_chunk, rules), read_pair_chunks(source, target, name), workers
        )
        for texts, more in show_progress(
            results, f"clean {name}", lambda r: r[1].total(), expected
        ):
            kept_source.write(texts[0])
            kept_target.write(texts[1])
            counts += more
    read = counts.total()
    if not counts["kept"]:
        raise BadInput(f"cleaning drops all of the {read} sentence pairs of {name}")
    note_size(name, read, expected)
    record = {"corpus": name, "read": read} | {key: counts[key] for key in (*REASONS, "kept")}
    (out / "counts.json").write_text(json.dumps(record) + "\n")


def note_size(name: str, pairs: int, expected: int | None) -> None:
    """Print a note if a corpus is not as long as the official one."""
    if expected and pairs != expected:
        say(f"note: {name} has {pairs} sentence pairs where WMT has {expected}")


# Test sets


def read_segments(archive: Path, name: str) -> list[tuple[str, str]]:
    """Read the sentences of an SGM file: for each, its document and number, and its text."""
    with open_member(archive, name) as file:
        data = file.read()
    try:
        sgm = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} in {archive} is not valid UTF-8") from error
    document, found = "", []
    for match in SEGMENT.finditer(sgm):
        if match[1] is not None:
            document = match[1]
            continue
        text = unescape(re.sub(r"<[^<>]+>", "", match[3]), {"&quot;": '"', "&apos;": "'"})
        found.append((f"{document} {match[2]}", " ".join(text.split())))
    return found


def make_test_set(
    archive: Path,
    name: str,
    split: str,
    languages: tuple[str, str],
    dashes: bool,
    out: Path,
    expected: int | None,
) -> None:
    """Write a test set to ``out``: SPLIT.LANGUAGE is tokenised, SPLIT.raw.LANGUAGE is not.

    Raises:
        BadInput: if the archive is damaged, or source and reference differ in length.
    """
    names = [
        f"{name}-{side}.{language}.sgm"
        for side, language in zip(("src", "ref"), languages, strict=True)
    ]
    source, target = (read_segments(archive, file) for file in names)
    if not source or len(source) != len(target):
        raise BadInput(
            f"{archive} has {len(source)} sentences in {names[0]} and {len(target)} in {names[1]}"
        )
    for (ours, _), (theirs, _) in zip(source, target, strict=True):
        if ours != theirs:
            say(f"note: {name} pairs the sentence '{ours}' with the sentence '{theirs}'")
            break
    note_size(name, len(source), expected)
    for language, side in zip(languages, (source, target), strict=True):
        lines = [text for _, text in side]
        write_lines(out / f"{split}.raw.{language}", lines)
        tokenised = (" ".join(tokenise(line, language, dashes)) for line in lines)
        write_lines(out / f"{split}.{language}", tokenised)
