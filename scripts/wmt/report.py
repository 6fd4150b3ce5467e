"""What became of a corpus of WMT: count each stage, check them against each other, report."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import Any

from scripts.lib.command_line import BadInput
from scripts.lib.corpus_files import binarised_sentences, write_lines
from scripts.lib.line_pool import in_order, line_chunks, shown
from scripts.wmt.cleaning import REASONS

COUNTS = ("read", *REASONS, "kept")  # of sentence pairs
SPECIAL_SYMBOLS = 4  # that fairseq adds to a dictionary file: <s>, <pad>, </s>, <unk>


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
            sentences = binarised_sentences(
                out / f"bin/{split}.{'-'.join(languages)}.{language}.idx"
            )
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
    total = {"corpus": "total"} | {key: sum(row[key] for row in rows) for key in COUNTS}
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
    write_lines(out / "report.json", [json.dumps(report, indent=2)])


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
    corpora = [["sentence pairs", *COUNTS]]
    for row in (*report["corpora"], report["total"]):
        corpora.append([row["corpus"], *(f"{row[key]:,}" for key in COUNTS)])
    splits = [["symbols", "sentences", "tokens", "unknown", "rate"]]
    for split, counts in report["splits"].items():
        for language in report["pair"].split("-"):
            side = counts[language]
            numbers = [f"{n:,}" for n in (counts["sentences"], side["tokens"], side["unknown"])]
            splits.append([f"{split}.{language}", *numbers, f"{side['unknown_rate']:.4%}"])
    print(f"{table(corpora)}\n\n{table(splits)}\n")
    print(f"joined dictionary: {report['dictionary']:,} entries")
    print(f"report: {path}")
