"""Report on a prepared WMT corpus: count each stage and check that the counts agree."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

from scripts.lib.command_line import BadInput
from scripts.lib.corpus_files import count_binarised_sentences, write_lines
from scripts.lib.line_pool import map_in_order, read_line_chunks, show_progress
from scripts.lib.tables import format_table
from scripts.wmt.cleaning import REASONS

COUNTS = ("read", *REASONS, "kept")  # of sentence pairs
SPECIAL_SYMBOLS = 4  # <s>, <pad>, </s> and <unk>, which no dictionary file lists


@cache
def read_symbols(dictionary: Path) -> frozenset[bytes]:
    """Read the symbols that a dictionary file of fairseq lists, once per process."""
    return frozenset(line.rsplit(b" ", 1)[0] for line in dictionary.read_bytes().splitlines())


def count_tokens(dictionary: Path, lines: list[bytes]) -> Counter[str]:
    """Count lines, tokens, and tokens that the dictionary does not list."""
    known = read_symbols(dictionary)
    tokens = [token for line in lines for token in line.split()]
    unknown = sum(token not in known for token in tokens)
    return Counter({"lines": len(lines), "tokens": len(tokens), "unknown": unknown})


def make_report(out: Path, languages: tuple[str, str], corpora: list[str], workers: int) -> None:
    """Count what each stage left in ``out``, and write report.json there.

    Raises:
        BadInput: if the counts of two stages do not agree.
    """
    dictionary = out / f"bin/dict.{languages[0]}.txt"
    rows = [json.loads((out / f"text/{name}.json").read_text()) for name in corpora]
    splits: dict[str, Any] = {}
    for split in ("train", "valid", "test"):
        splits[split] = {}
        for language in languages:
            name = f"{split}.{language}"
            results = map_in_order(
                partial(count_tokens, dictionary), read_line_chunks(out / "bpe" / name), workers
            )
            counts: Counter[str] = Counter()
            for more in show_progress(results, f"check {name}", lambda result: result["lines"]):
                counts += more
            sentences = count_binarised_sentences(
                out / f"bin/{split}.{'-'.join(languages)}.{language}.idx"
            )
            if sentences != counts["lines"]:
                raise BadInput(
                    f"{name} has {counts['lines']} lines, but fairseq binarised {sentences}"
                )
            splits[split]["sentences"] = sentences
            splits[split][language] = {
                "tokens": counts["tokens"],
                "unknown": counts["unknown"],
                "unknown_rate": round(counts["unknown"] / max(counts["tokens"], 1), 6),
            }
    total = {"corpus": "total"} | {key: sum(row[key] for row in rows) for key in COUNTS}
    if total["kept"] != splits["train"]["sentences"]:
        raise BadInput(
            f"{total['kept']} sentence pairs were kept, but fairseq binarised "
            f"{splits['train']['sentences']}"
        )
    report = {
        "pair": "-".join(languages),
        "settings": (out / "settings").read_text().strip(),
        "corpora": rows,
        "total": total,
        "dictionary": len(dictionary.read_bytes().splitlines()) + SPECIAL_SYMBOLS,
        "splits": splits,
    }
    write_lines(out / "report.json", [json.dumps(report, indent=2)])


def print_report(path: Path) -> None:
    """Print report.json as tables."""
    report = json.loads(path.read_text())
    corpora = [
        [row["corpus"], *(f"{row[key]:,}" for key in COUNTS)]
        for row in (*report["corpora"], report["total"])
    ]
    splits = []
    for split, counts in report["splits"].items():
        for language in report["pair"].split("-"):
            side = counts[language]
            numbers = [f"{n:,}" for n in (counts["sentences"], side["tokens"], side["unknown"])]
            splits.append([f"{split}.{language}", *numbers, f"{side['unknown_rate']:.4%}"])
    print(format_table(["sentence pairs", *COUNTS], corpora))
    print()
    print(format_table(["symbols", "sentences", "tokens", "unknown", "rate"], splits))
    print()
    print(f"joined dictionary: {report['dictionary']:,} entries")
    print(f"report: {path}")
