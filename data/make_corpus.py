"""Write a parallel corpus of sentences drawn from a grammar of English, German and French.

The same arguments give the same bytes on every platform. The files hold one sentence a line,
tokens separated by spaces. To read them as plain text, join a token that ends with an apostrophe
to the next one, and punctuation and a token that begins with an apostrophe to the one before.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.grammar import english, french, german
from data.grammar.sampler import Sampler

LINEARISE = {"en-de": german.sentence, "en-fr": french.sentence}

# The grammar makes many more sentences, but nobody has counted; this many have been drawn.
MOST_PAIRS = 200_000
# So many draws in a row without a usable sentence mean that there will hardly be another.
PATIENCE = 2_000

Pairs = list[tuple[str, str]]


class CorpusError(ValueError):
    """A corpus that cannot be made; the message is a sentence for the user."""


def make_corpus(pair: str, train: int, valid: int, test: int, seed: int = 1) -> dict[str, Pairs]:
    """The sentence pairs of each split, for a language pair "en-de" or "en-fr".

    No sentence of either language occurs twice in the whole corpus, and the words of the
    validation and test sentences all occur in the training sentences.
    """
    if train + valid + test > MOST_PAIRS:
        raise CorpusError(
            f"The grammar is only sure to make {MOST_PAIRS} different sentence pairs, "
            f"{train + valid + test} were asked for."
        )
    drawn = _distinct_pairs(pair, seed)
    corpus = {"train": [next(drawn) for _ in range(train)]}
    sources = _vocabulary(source for source, _ in corpus["train"])
    targets = _vocabulary(target for _, target in corpus["train"])
    for split, size in (("valid", valid), ("test", test)):
        corpus[split] = []
        failures = 0
        while len(corpus[split]) < size:
            source, target = next(drawn)
            if sources.issuperset(source.split()) and targets.issuperset(target.split()):
                corpus[split].append((source, target))
                failures = 0
            elif (failures := failures + 1) == PATIENCE:
                raise CorpusError(
                    f"Of {size} {split} pairs only {len(corpus[split])} were found whose words all "
                    f"occur in the {train} training pairs; more training pairs are needed."
                )
    return corpus


def _distinct_pairs(pair: str, seed: int) -> Iterator[tuple[str, str]]:
    """Endlessly draw sentence pairs of which neither side has been drawn before."""
    sampler, linearise = Sampler(seed), LINEARISE[pair]
    seen: set[str] = set()
    while True:
        sentence = sampler.sentence()
        source, target = " ".join(english.sentence(sentence)), " ".join(linearise(sentence))
        # No line is a sentence of both languages, so that one set can hold them all.
        if source not in seen and target not in seen:
            seen.update((source, target))
            yield source, target


def _vocabulary(lines: Iterable[str]) -> set[str]:
    return {word for line in lines for word in line.split()}


def write_corpus(corpus: dict[str, Pairs], pair: str, folder: Path) -> None:
    """Write `train.en`, `train.de` and so on; none is in the folder before all are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        for split, pairs in corpus.items():
            for side, language in enumerate(pair.split("-")):
                lines = "".join(f"{sentences[side]}\n" for sentences in pairs)
                Path(partial, f"{split}.{language}").write_bytes(lines.encode())
        for path in sorted(Path(partial).iterdir()):
            path.replace(folder / path.name)


def main(arguments: list[str] | None = None) -> None:
    """The command line: `python make_corpus.py --pair en-de --out corpus`."""
    parser = argparse.ArgumentParser(
        description="Write the train, valid and test files of a generated parallel corpus."
    )
    parser.add_argument("--pair", required=True, choices=tuple(LINEARISE), help="the languages")
    parser.add_argument("--out", required=True, type=Path, help="the folder for the files")
    count = {"type": _count, "help": "how many sentence pairs (default: %(default)s)"}
    parser.add_argument("--train", default=12_000, **count)
    parser.add_argument("--valid", default=500, **count)
    parser.add_argument("--test", default=500, **count)
    parser.add_argument(
        "--seed", type=_count, default=1, help="another seed, another corpus (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        corpus = make_corpus(options.pair, options.train, options.valid, options.test, options.seed)
        write_corpus(corpus, options.pair, options.out)
    except CorpusError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename} cannot be written: {error.strerror}.")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of zero or more.")
    return int(text)


if __name__ == "__main__":
    main()
