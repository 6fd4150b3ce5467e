"""Score the output of fairseq-generate: tokenised BLEU, detokenised sacreBLEU, chrF.

Into German from English there is compound-split BLEU as well, which published tables of WMT
En-De report: tokenised BLEU after hyphenated compounds are split, in both texts.

Refuses output that does not hold exactly one translation for each sentence of the data, puts
translations and references into files in the order of the corpus, and writes scores.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric
from sacremoses import MosesDetokenizer

from scripts.lib.command_line import BadInput, refusing
from scripts.lib.corpus_files import binarised_sentences, read_lines, write_lines

COMPOUND = re.compile(r"(\S)-(\S)", re.ASCII)  # the \S of a Perl that reads bytes

Measure = tuple[Metric, list[str], list[str]]  # a metric, hypotheses, references


@dataclass(frozen=True)
class Corpus:
    """One split of a folder made by fairseq-preprocess: how long, from and into which language."""

    sentences: int
    source: str
    target: str

    @classmethod
    def of(cls, data: Path, subset: str) -> Corpus:
        """Read it from a name such as `test.en-de.de.idx`, and from that index's header."""
        indices = sorted(data.glob(f"{subset}.*-*.*.idx"))
        if not indices:
            raise BadInput(f"{data} holds no binarised split '{subset}'")
        source, target = indices[0].name.split(".")[-3].split("-")
        return cls(binarised_sentences(indices[0]), source, target)


def read_generated(path: Path, sentences: int) -> tuple[list[str], list[str]]:
    """Translations and references of fairseq-generate's output, in the order of the corpus."""
    found: dict[str, dict[int, str]] = {"H": {}, "T": {}}
    for line in read_lines(path):
        fields = line.split("\t")
        kind, _, number = fields[0].partition("-")
        if kind not in found or not number.isdecimal() or len(fields) < 2:
            continue
        if int(number) in found[kind]:
            raise BadInput(f"{path} holds more than one line {fields[0]}")
        found[kind][int(number)] = fields[-1]
    for kind, what in (("H", "translations"), ("T", "references")):
        if found[kind].keys() != set(range(sentences)):
            raise BadInput(
                f"{path} holds {len(found[kind])} {what} for the {sentences} sentences of the data"
            )
    hypotheses, references = ([found[kind][i] for i in range(sentences)] for kind in "HT")
    return hypotheses, references


def detokenise(lines: list[str], language: str) -> list[str]:
    """Undo Moses tokenisation, its escapes included."""
    moses = MosesDetokenizer(lang=language)
    return [moses.detokenize(line.split()) for line in lines]


def split_compounds(line: str) -> str:
    """A tokenised line with its hyphenated compounds split as by get_ende_bleu.sh of tensor2tensor
    and compound_split_bleu.sh of fairseq.

    Where Moses has split them already (`rich @-@ text`), that is undone first: the score does not
    depend on how the data was tokenised.
    """
    return COMPOUND.sub(r"\1 ##AT##-##AT## \2", line.replace(" @-@ ", "-"))


def tokenised_bleu() -> BLEU:
    """The BLEU of multi-bleu.perl and fairseq: on tokens as they are, without smoothing."""
    return BLEU(tokenize="none", smooth_method="none", force=True)


def score(metric: Metric, hypotheses: list[str], references: list[str]) -> dict[str, Any]:
    """A corpus score, and the signature that says how it was computed."""
    value = metric.corpus_score(hypotheses, [references]).score
    return {"score": round(value, 2), "signature": str(metric.get_signature())}


def measures(folder: Path, pair: tuple[str, str]) -> dict[str, Measure]:
    """What there is to score in `folder`, by name. `pair` is the source and target language.

    Against a raw reference, case counts unless no translation has a capital letter.
    """
    hypotheses, references = read_lines(folder / "hyp.tok"), read_lines(folder / "ref.tok")
    found = {"bleu_tokenised": (tokenised_bleu(), hypotheses, references)}
    if pair == ("en", "de"):
        split = ([split_compounds(line) for line in text] for text in (hypotheses, references))
        found["bleu_compound_split"] = (tokenised_bleu(), *split)
    if not (folder / "ref.detok").exists():
        return {**found, "chrf_tokenised": (CHRF(), hypotheses, references)}
    plain, raw = read_lines(folder / "hyp.detok"), read_lines(folder / "ref.detok")
    lowercase = not any(c.isupper() for line in plain for c in line)
    found["sacrebleu"] = (BLEU(lowercase=lowercase), plain, raw)
    return {**found, "chrf": (CHRF(lowercase=lowercase), plain, raw)}


def write_texts(generated: Path, corpus: Corpus, out: Path, reference: Path | None) -> None:
    """Write hyp.tok and ref.tok to `out`, and with a raw reference hyp.detok and ref.detok."""
    hypotheses, references = read_generated(generated, corpus.sentences)
    write_lines(out / "hyp.tok", hypotheses)
    write_lines(out / "ref.tok", references)
    for name in ("hyp.detok", "ref.detok"):
        (out / name).unlink(missing_ok=True)
    if reference is None:
        return
    raw = read_lines(reference)
    if len(raw) != corpus.sentences:
        raise BadInput(
            f"{reference} has {len(raw)} lines for the {corpus.sentences} sentences of the data"
        )
    write_lines(out / "hyp.detok", detokenise(hypotheses, corpus.target))
    write_lines(out / "ref.detok", raw)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--generated", type=Path, required=True, help="what fairseq-generate printed"
    )
    parser.add_argument("--data", type=Path, required=True, help="the binarised data it read")
    parser.add_argument("--subset", default="test", help="the split that was translated")
    parser.add_argument("--reference", type=Path, help="untokenised references, one a line")
    parser.add_argument("--out", type=Path, required=True, help="an existing folder to write to")
    facts = parser.add_argument_group("facts to keep in scores.json")
    facts.add_argument("--checkpoint", help="what translated")
    facts.add_argument("--beam", type=int, help="its beam size")
    facts.add_argument("--lenpen", type=float, help="its length penalty")
    return parser.parse_args()


@refusing(BadInput)
def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    args = parse_args()
    if not args.out.is_dir():
        raise BadInput(f"--out names no folder: {args.out}")
    corpus = Corpus.of(args.data, args.subset)
    write_texts(args.generated, corpus, args.out, args.reference)
    found = measures(args.out, (corpus.source, corpus.target))
    scores = {name: score(*measure) for name, measure in found.items()}
    facts = {key: getattr(args, key) for key in ("checkpoint", "beam", "lenpen", "subset")}
    record = {**facts, **dataclasses.asdict(corpus), **scores}
    write_lines(args.out / "scores.json", [json.dumps(record, indent=2)])
    for name, result in scores.items():
        print(f"{args.subset} {name} {result['score']:.2f}  {result['signature']}")


if __name__ == "__main__":
    main()
