"""The text of WMT: clean parallel corpora, read test sets, count words, apply BPE, report.

The commands of scripts/prepare_wmt.sh. Each reads its input as a stream, hands chunks of lines to
a pool of processes and writes what comes back in the order of the input, so that memory does not
grow with the corpus.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import json
import multiprocessing
import re
import signal
import struct
import sys
import tarfile
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from xml.sax.saxutils import unescape

import regex
from command_line import BadInput, refusing, say
from sacremoses import MosesPunctNormalizer, MosesTokenizer
from subword_nmt.apply_bpe import BPE
from tqdm import tqdm

CHUNK = 1000  # lines that a worker is given at a time
AHEAD = 4  # chunks under way for each worker
SECONDS_BETWEEN_LINES = 30  # of progress, where there is no terminal for a bar
LONGEST_WORD = 1000  # characters, as in Moses's clean-corpus-n.perl
CACHED_WORDS = 200_000  # that each worker remembers how to split
MOST_WORDS = 4_000_000  # counted and learnt from; learning BPE takes a kilobyte for each
SPECIAL_SYMBOLS = 4  # that fairseq adds to a dictionary file: <s>, <pad>, </s>, <unk>
NOT_PRINTED = regex.compile(r"\p{C}")
INDEX_HEADER = struct.Struct("<9sQBQ")  # magic, version, type of the items, number of sentences

T = TypeVar("T")
Chunk = TypeVar("Chunk")


# Streams of chunks -------------------------------------------------------------------------------


def follow_parent() -> None:
    """Leave Ctrl-C to the parent process, and end with it, even where it is killed outright."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def in_order(function: Callable[[Chunk], T], chunks: Iterable[Chunk], workers: int) -> Iterator[T]:
    """`function` of each chunk, computed by `workers` processes, in the order of the chunks.

    No more than AHEAD chunks a worker are read before the first result is taken.
    """
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, context, initializer=follow_parent) as pool:
        waiting = deque()
        for chunk in chunks:
            waiting.append(pool.submit(function, chunk))
            if len(waiting) == AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def line_chunks(*paths: Path) -> Iterator[list[bytes]]:
    """The lines of these files, one file after the other, broken at line feeds only."""
    for path in paths:
        with path.open("rb") as file:
            while lines := list(islice(file, CHUNK)):
                yield lines


def shown(
    results: Iterable[T], what: str, size: Callable[[T], int], total: int | None = None
) -> Iterator[T]:
    """Pass `results` on, with a bar on a terminal and a line now and then elsewhere."""
    started = told = time.monotonic()
    terminal, done, of_total = sys.stderr.isatty(), 0, f" of {total:,}" if total else ""
    tqdm.monitor_interval = 0  # its thread would be there when the workers are forked
    with tqdm(
        desc=what, total=total, unit=" lines", unit_scale=True, leave=False, disable=not terminal
    ) as bar:
        for result in results:
            yield result
            done += size(result)
            bar.update(size(result))
            now = time.monotonic()
            if not terminal and now - told >= SECONDS_BETWEEN_LINES:
                told = now
                rate = done / (now - started)
                say(f"{what}: {done:,}{of_total} lines, {rate:,.0f} a second")
    seconds = time.monotonic() - started
    say(f"{what}: {done:,} lines in {seconds:,.1f} s, {done / seconds:,.0f} a second")


# Archives ----------------------------------------------------------------------------------------


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


def pair_chunks(source: BinaryIO, target: BinaryIO, what: str) -> Iterator[list[list[bytes]]]:
    """The lines of two files side by side; they must be equally many."""
    done = 0
    while True:
        chunk = [list(islice(file, CHUNK)) for file in (source, target)]
        if len(chunk[0]) != len(chunk[1]):
            ends = done + min(map(len, chunk))
            raise BadInput(f"one side of {what} ends after {ends} lines and the other goes on")
        if not chunk[0]:
            return
        yield chunk
        done += len(chunk[0])


# Cleaning ----------------------------------------------------------------------------------------


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


REASONS = ("misencoded", "empty", "too long", "ratio")


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


# Test sets ---------------------------------------------------------------------------------------

SEGMENT = re.compile(
    r'<doc\b[^>]*?\bdocid="([^"]*)"|<seg\b[^>]*?\bid="?([^">\s]*)"?[^>]*>(.*?)</seg>',
    re.DOTALL | re.IGNORECASE,
)


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
        for suffix, lines in {
            f"raw.{language}": [text for _, text in side],
            language: [" ".join(tokenise(text, language, dashes)) for _, text in side],
        }.items():
            path = out / f"{split}.{suffix}"
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


# Byte pair encoding ------------------------------------------------------------------------------


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


# Report ------------------------------------------------------------------------------------------


@cache
def symbols(dictionary: Path) -> frozenset[bytes]:
    """What a dictionary file of fairseq lists."""
    return frozenset(line.rsplit(b" ", 1)[0] for line in dictionary.read_bytes().splitlines())


def tally(dictionary: Path, lines: list[bytes]) -> Counter[str]:
    """How many lines and tokens there are, and how many of the tokens fairseq does not know."""
    known = symbols(dictionary)
    tokens = [token for line in lines for token in line.split()]
    unknown = sum(token not in known for token in tokens)
    return Counter({"lines": len(lines), "tokens": len(tokens), "unknown": unknown})


def binarised(index: Path) -> int:
    """How many sentences fairseq-preprocess wrote."""
    with index.open("rb") as file:
        *_, sentences = INDEX_HEADER.unpack(file.read(INDEX_HEADER.size))
    return sentences


def make_report(out: Path, languages: tuple[str, str], corpora: list[str], workers: int) -> None:
    """Count what each stage left in `out`, and write report.json there."""
    dictionary = out / f"bin/dict.{languages[0]}.txt"
    rows = [json.loads((out / f"text/{name}.json").read_text()) for name in corpora]
    splits: dict[str, Any] = {}
    for split in ("train", "valid", "test"):
        splits[split] = {}
        for language in languages:
            name = f"{split}.{language}"
            results = in_order(partial(tally, dictionary), line_chunks(out / "bpe" / name), workers)
            counts: Counter[str] = Counter()
            for more in shown(results, f"check {name}", lambda result: result["lines"]):
                counts += more
            sentences = binarised(out / f"bin/{split}.{'-'.join(languages)}.{language}.idx")
            if sentences != counts["lines"]:
                raise BadInput(
                    f"{name} has {counts['lines']} lines and fairseq binarised {sentences}"
                )
            splits[split]["sentences"] = sentences
            splits[split][language] = {
                "tokens": counts["tokens"],
                "unknown": counts["unknown"],
                "unknown_rate": round(counts["unknown"] / max(counts["tokens"], 1), 6),
            }
    keys = ("read", *REASONS, "kept")
    total = {"corpus": "total"} | {key: sum(row[key] for row in rows) for key in keys}
    if total["kept"] != splits["train"]["sentences"]:
        raise BadInput(
            f"{total['kept']} sentence pairs were kept and {splits['train']['sentences']} binarised"
        )
    report = {
        "pair": "-".join(languages),
        "settings": (out / "settings").read_text().strip(),
        "corpora": rows,
        "total": total,
        "dictionary": len(dictionary.read_bytes().splitlines()) + SPECIAL_SYMBOLS,
        "splits": splits,
    }
    partial_report = out / ".report.json.part"
    partial_report.write_text(json.dumps(report, indent=2) + "\n")
    partial_report.replace(out / "report.json")


def table(rows: list[list[str]]) -> str:
    """Rows as lines of text, in columns; the first is for names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def print_report(path: Path) -> None:
    """Print report.json for people."""
    report = json.loads(path.read_text())
    keys = ("read", *REASONS, "kept")
    corpora = [["sentence pairs", *keys]]
    for row in (*report["corpora"], report["total"]):
        corpora.append([row["corpus"], *(f"{row[key]:,}" for key in keys)])
    splits = [["symbols", "sentences", "tokens", "unknown", "rate"]]
    for split, counts in report["splits"].items():
        for language in report["pair"].split("-"):
            side = counts[language]
            numbers = [f"{n:,}" for n in (counts["sentences"], side["tokens"], side["unknown"])]
            splits.append([f"{split}.{language}", *numbers, f"{side['unknown_rate']:.4%}"])
    print(f"{table(corpora)}\n\n{table(splits)}\n")
    print(f"joined dictionary: {report['dictionary']:,} entries")
    print(f"report: {path}")


# Command line ------------------------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {
    "--archive": {"type": Path, "required": True, "help": "the tar archive that holds it"},
    "--name": {"required": True, "help": "its file name there, up to the language"},
    "--languages": {"nargs": 2, "required": True, "help": "source and target language"},
    "--dashes": {"action": "store_true", "help": "split words at their hyphens"},
    "--expected": {"type": int, "help": "how many sentence pairs it should have"},
    "--inputs": {"type": Path, "nargs": "+", "required": True, "help": "tokenised text"},
    "--out": {"type": Path, "required": True, "help": "an existing folder to write to"},
    "--workers": {"type": int, "required": True, "help": "number of processes"},
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str, *options: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        for option in options:
            added.add_argument(option, **OPTIONS[option])
        return added

    corpus = ("--archive", "--name", "--languages", "--dashes", "--expected", "--out")
    cleaner = command("clean", "tokenise and clean a parallel corpus", *corpus, "--workers")
    cleaner.add_argument("--max-length", type=int, required=True, help="tokens of a sentence")
    cleaner.add_argument("--ratio", type=float, required=True, help="of the sentences of a pair")
    reader = command("test-set", "read and tokenise a test set", *corpus)
    reader.add_argument("--split", required=True, help="what to call it")
    counter = command("count-words", "count the words of files", "--inputs", "--workers")
    counter.add_argument("--output", type=Path, required=True, help="the file to write")
    encoder = command("encode", "apply BPE to files", "--inputs", "--out", "--workers")
    encoder.add_argument("--codes", type=Path, required=True, help="what learn_bpe wrote")
    reporter = command("report", "count what was made", "--out", "--languages", "--workers")
    reporter.add_argument("--corpora", nargs="+", required=True, help="the corpora of train")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Run one command."""
    languages = tuple(getattr(args, "languages", ()))
    if args.command == "clean":
        rules = Rules(languages, args.dashes, args.max_length, args.ratio)
        clean_corpus(args.archive, args.name, rules, args.out, args.workers, args.expected)
    elif args.command == "test-set":
        make_test_set(
            args.archive, args.name, args.split, languages, args.dashes, args.out, args.expected
        )
    elif args.command == "count-words":
        count_words(args.inputs, args.output, args.workers)
    elif args.command == "encode":
        encode_files(args.codes, args.inputs, args.out, args.workers)
    else:
        if not (args.out / "report.json").exists():
            make_report(args.out, languages, args.corpora, args.workers)
        print_report(args.out / "report.json")


@refusing(BadInput, OSError)
def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    try:
        run(parse_args())
    except BrokenProcessPool:
        say("error: a worker was killed, by the system perhaps for want of memory: fewer --workers")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
