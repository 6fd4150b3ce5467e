"""From WMT's archives to tokenised text: parallel corpora, which are cleaned, and test sets."""

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
from scripts.lib.line_pool import in_order, pair_chunks, shown

LONGEST_WORD = 1000  # characters, as in Moses's clean-corpus-n.perl
NOT_PRINTED = regex.compile(r"\p{C}")
REASONS = ("misencoded", "empty", "too long", "ratio")  # why pairs are dropped
SEGMENT = re.compile(
    r'<doc\b[^>]*?\bdocid="([^"]*)"|<seg\b[^>]*?\bid="?([^">\s]*)"?[^>]*>(.*?)</seg>',
    re.DOTALL | re.IGNORECASE,
)


@contextmanager
def unpacked(archive: Path, name: str) -> Iterator[BinaryIO]:
    """The file `name`, or `name`.gz, of a tar archive, whatever its folder there, as a stream."""
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
            f"{archive} is not a whole tar archive ({error}): remove it and start again"
        ) from error
    raise BadInput(f"{archive} holds no file {name}")


# Cleaning


@cache
def moses(language: str) -> tuple[MosesPunctNormalizer, MosesTokenizer]:
    """What makes the tokens of a language."""
    return MosesPunctNormalizer(language, perl_parity=True), MosesTokenizer(language)


def tokenise(line: str, language: str, dashes: bool) -> list[str]:
    """The tokens that Moses's scripts make of a line; no white space of any alphabet is in one.

    The scripts are normalize-punctuation.perl, remove-non-printing-char.perl and tokenizer.perl,
    the last with -a where `dashes` says that words are split at their hyphens.
    """
    normaliser, tokeniser = moses(language)
    # The Perl script sees the line feed, and so moves a full stop out of a final quotation.
    line = NOT_PRINTED.sub(" ", normaliser.normalize(line + "\n"))
    return tokeniser.tokenize(line, aggressive_dash_splits=dashes)


@dataclass(frozen=True)
class Rules:
    """How pairs are tokenised, and which are kept."""

    languages: tuple[str, str]
    dashes: bool
    max_length: int
    ratio: float


def decoded(line: bytes) -> str | None:
    """A line's text, unless it is not UTF-8, or was spoilt by a wrong conversion before."""
    try:
        text = line.decode().removesuffix("\n")
    except UnicodeDecodeError:
        return None
    return None if "\N{REPLACEMENT CHARACTER}" in text else text


def fault(source: list[str], target: list[str], rules: Rules) -> str | None:
    """Why a pair of tokenised sentences is dropped, if it is."""
    shorter, longer = sorted((len(source), len(target)))
    if shorter == 0:
        return "empty"
    if longer > rules.max_length or max(map(len, source + target)) > LONGEST_WORD:
        return "too long"
    return "ratio" if longer > rules.ratio * shorter else None


def clean(rules: Rules, chunk: list[list[bytes]]) -> tuple[list[bytes], Counter[str]]:
    """The pairs that are kept, tokenised, as the text of either side; and how many were not."""
    kept: list[list[str]] = [[], []]
    counts: Counter[str] = Counter()
    for pair in zip(*chunk, strict=True):
        texts = [decoded(line) for line in pair]
        if None in texts:
            counts["misencoded"] += 1
            continue
        tokens = [
            tokenise(text, language, rules.dashes)
            for text, language in zip(texts, rules.languages, strict=True)
        ]
        reason = fault(*tokens, rules)
        counts[reason or "kept"] += 1
        if reason is None:
            for side, words in zip(kept, tokens, strict=True):
                side.append(" ".join(words) + "\n")
    return ["".join(side).encode() for side in kept], counts


def clean_corpus(
    archive: Path, name: str, rules: Rules, out: Path, workers: int, expected: int | None
) -> None:
    """Write train.LANGUAGE for both languages of a corpus, and counts.json, to the folder `out`."""
    counts: Counter[str] = Counter()
    names = [f"{name}.{language}" for language in rules.languages]
    paths = [out / f"train.{language}" for language in rules.languages]
    with (
        unpacked(archive, names[0]) as source,
        unpacked(archive, names[1]) as target,
        paths[0].open("wb") as kept_source,
        paths[1].open("wb") as kept_target,
    ):
        results = in_order(partial(clean, rules), pair_chunks(source, target, name), workers)
        for texts, more in shown(results, f"clean {name}", lambda r: r[1].total(), expected):
            kept_source.write(texts[0])
            kept_target.write(texts[1])
            counts += more
    read = counts.total()
    if not counts["kept"]:
        raise BadInput(f"none of the {read} sentence pairs of {name} is fit to be kept")
    note_size(name, read, expected)
    record = {"corpus": name, "read": read} | {key: counts[key] for key in (*REASONS, "kept")}
    (out / "counts.json").write_text(json.dumps(record) + "\n")


def note_size(name: str, pairs: int, expected: int | None) -> None:
    """Say so where a corpus is not as long as the official one."""
    if expected and pairs != expected:
        say(f"note: {name} has {pairs} sentence pairs where WMT has {expected}")


# Test sets


def segments(archive: Path, name: str) -> list[tuple[str, str]]:
    """Where each sentence of an SGM file belongs (its document and number), and its text."""
    with unpacked(archive, name) as file:
        data = file.read()
    try:
        sgm = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} of {archive} is not valid UTF-8") from error
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
    """Write a test set to `out`: SPLIT.LANGUAGE tokenised, and SPLIT.raw.LANGUAGE as it is."""
    names = [
        f"{name}-{side}.{language}.sgm"
        for side, language in zip(("src", "ref"), languages, strict=True)
    ]
    source, target = (segments(archive, file) for file in names)
    if not source or len(source) != len(target):
        raise BadInput(
            f"{archive} holds {len(source)} sentences in {names[0]} and {len(target)} in {names[1]}"
        )
    for (ours, _), (theirs, _) in zip(source, target, strict=True):
        if ours != theirs:
            say(f"note: in {name}, the sentence '{ours}' stands beside '{theirs}'")
            break
    note_size(name, len(source), expected)
    for language, side in zip(languages, (source, target), strict=True):
        lines = [text for _, text in side]
        write_lines(out / f"{split}.raw.{language}", lines)
        tokenised = (" ".join(tokenise(line, language, dashes)) for line in lines)
        write_lines(out / f"{split}.{language}", tokenised)
