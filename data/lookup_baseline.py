"""Translate the test split word by word and score it, to see how hard a corpus is to translate.

python -m data.lookup_baseline --pair en-de --data corpus

The command learns a dictionary from the training split with IBM model 1. It translates each English
word into its most probable target word, without context and without changing the order of words.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from sacrebleu.metrics import BLEU

from data.make_corpus import LINEARISE

Lines = list[list[str]]


def learn_dictionary(sources: Lines, targets: Lines, rounds: int = 5) -> dict[str, str]:
    """Learn the most probable target word of each source word, with some rounds of EM."""
    probability: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for source, target in zip(sources, targets, strict=True):
            for word in target:
                shares = [probability[other][word] if probability else 1.0 for other in source]
                total = sum(shares)
                for other, share in zip(source, shares, strict=True):
                    counts[other][word] += share / total
        probability = {}
        for word, row in counts.items():
            total = sum(row.values())
            probability[word] = {other: count / total for other, count in row.items()}
    return {word: max(sorted(row), key=row.__getitem__) for word, row in probability.items()}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data.lookup_baseline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pair", required=True, choices=tuple(LINEARISE), help="languages")
    parser.add_argument(
        "--data", required=True, type=Path, help="folder that data.make_corpus wrote"
    )
    options = parser.parse_args(arguments)
    languages = options.pair.split("-")
    try:
        train, test = (
            [_read(options.data / f"{split}.{language}") for language in languages]
            for split in ("train", "test")
        )
    except OSError as error:
        parser.error(f"{error.filename} cannot be read: {error.strerror}")
    table = learn_dictionary(*train)
    hypotheses = [" ".join(table.get(word, word) for word in line) for line in test[0]]
    references = [" ".join(line) for line in test[1]]
    bleu = BLEU(tokenize="none", force=True)
    print(bleu.corpus_score(hypotheses, [references]))
    print(bleu.get_signature())


def _read(path: Path) -> Lines:
    return [line.split() for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
