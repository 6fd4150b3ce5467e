"""Generate a parallel corpus from a grammar of English, German and French.

python -m data.make_corpus --pair en-de --out corpus

The command draws sentences at random from the grammar in data/grammar and writes each one in two
languages. The same arguments give the same bytes on every platform. The files hold one sentence per
line, with spaces between tokens. To get plain text, join a token that ends with an apostrophe to
the next token, and join punctuation and tokens that begin with an apostrophe to the previous token.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.grammar import english, french, german
from data.grammar.sampler import Sampler

LINEARISE = {"en-de": german.sentence, "en-fr": french.sentence}

# The grammar has many more sentences, but their number is unknown. This many have been drawn.
MOST_PAIRS = 200_000
# After this many draws in a row without a usable sentence, another one is unlikely.
PATIENCE = 2_000

Pairs = list[tuple[str, str]]


class CorpusError(ValueError):
    """A corpus that the grammar cannot make; the message is one sentence for the user."""


def make_corpus(pair: str, train: int, valid: int, test: int, seed: int = 1) -> dict[str, Pairs]:
    """Generate the sentence pairs of each split.

    No sentence of either language occurs twice in the whole corpus, and all words of the validation
    and test sentences occur in the training sentences.

    Args:
        pair: languages, "en-de" or "en-fr".
        train: number of training pairs.
        valid: number of validation pairs.
        test: number of test pairs.
        seed: of the random draws.

    Raises:
        CorpusError: if there are not enough sentences.
    """
    if train + valid + test > MOST_PAIRS:
        raise CorpusError(
            f"{train + valid + test} sentence pairs were requested, but at most {MOST_PAIRS} are "
            "known to be different"
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
                    f"only {len(corpus[split])} of {size} {split} pairs were found whose words all "
                    f"occur in the {train} training pairs; use more training pairs"
                )
    return corpus


def _distinct_pairs(pair: str, seed: int) -> Iterator[tuple[str, str]]:
    """Draw sentence pairs without end; no sentence of either language comes twice."""
    sampler, linearise = Sampler(seed), LINEARISE[pair]
    seen: set[str] = set()
    while True:
        sentence = sampler.sentence()
        source, target = " ".join(english.sentence(sentence)), " ".join(linearise(sentence))
        # No sentence belongs to both languages, so one set can hold all of them.
        if source not in seen and target not in seen:
            seen.update((source, target))
            yield source, target


def _vocabulary(lines: Iterable[str]) -> set[str]:
    return {word for line in lines for word in line.split()}


def write_corpus(corpus: dict[str, Pairs], pair: str, folder: Path) -> None:
    """Write ``train.en``, ``train.de`` and so on, once all files are complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        for split, pairs in corpus.items():
            for side, language in enumerate(pair.split("-")):
                lines = "".join(f"{sentences[side]}\n" for sentences in pairs)
                Path(partial, f"{split}.{language}").write_bytes(lines.encode())
        for path in sorted(Path(partial).iterdir()):
            path.replace(folder / path.name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data.make_corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pair", required=True, choices=tuple(LINEARISE), help="languages")
    parser.add_argument("--out", required=True, type=Path, help="folder to write the files to")
    for split, size in (("train", 12_000), ("valid", 500), ("test", 500)):
        parser.add_argument(
            f"--{split}",
            default=size,
            type=_parse_count,
            metavar="N",
            help=f"number of sentence pairs in {split} (default: %(default)s)",
        )
    parser.add_argument(
        "--seed",
        type=_parse_count,
        default=1,
        metavar="N",
        help="random seed; another seed gives another corpus (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        corpus = make_corpus(options.pair, options.train, options.valid, options.test, options.seed)
        write_corpus(corpus, options.pair, options.out)
    except CorpusError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename} cannot be written: {error.strerror}")


def _parse_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


if __name__ == "__main__":
    main()
