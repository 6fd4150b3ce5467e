"""Score the output of fairseq-generate: tokenised BLEU, detokenised sacreBLEU and chrF.

python -m scripts.translation.score --generated FILE --data BIN --out FOLDER [--reference FILE]

For English to German the command also computes compound-split BLEU, which published tables of WMT
En-De report: tokenised BLEU after splitting hyphenated compounds in both texts.

The command refuses output that lacks a translation of a sentence or has two. It writes translations
and references to files in the order of the corpus, and all scores to scores.json.
scripts/translation/evaluate.sh translates a split and then runs this command.
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

from scripts.lib.command_line import BadInput, build_parser, positive_integer, report_errors
from scripts.lib.corpus_files import count_binarised_sentences, read_lines, write_lines

COMPOUND = re.compile(r"(\S)-(\S)", re.ASCII)  # \S as in Perl without Unicode

Measure = tuple[Metric, list[str], list[str]]  # a metric, hypotheses, references


@dataclass(frozen=True)
class Corpus:
    """A split of binarised data: its number of sentences and its two languages."""

    sentences: int
    source: str
    target: str

    @classmethod
    def read(cls, data: Path, subset: str) -> Corpus:
        """Read a split from the name and the header of an index such as ``test.en-de.de.idx``.

        Raises:
            BadInput: if the folder ``data`` has no such split.
        """
        indices = sorted(data.glob(f"{subset}.*-*.*.idx"))
        if not indices:
            raise BadInput(f"{data} holds no binarised split '{subset}'")
        source, target = indices[0].name.split(".")[-3].split("-")
        return cls(count_binarised_sentences(indices[0]), source, target)


def read_generated(path: Path, sentences: int) -> tuple[list[str], list[str]]:
    """Read translations and references from the output of fairseq-generate.

    Both are in the order of the corpus.

    Raises:
        BadInput: unless each of the ``sentences`` has exactly one translation and one reference.
    """
    found: dict[str, dict[int, str]] = {"H": {}, "T": {}}
    for line in read_lines(path):
        fields = line.split("\t")
        kind, _, number = fields[0].partition("-")
        if kind not in found or not number.isdecimal() or len(fields) < 2:
            continue
        if int(number) in found[kind]:
            raise BadInput(f"{path} has more than one line {fields[0]}")
        found[kind][int(number)] = fields[-1]
    for kind, what in (("H", "translations"), ("T", "references")):
        if found[kind].keys() != set(range(sentences)):
            raise BadInput(
                f"{path} has {len(found[kind])} {what} for the {sentences} sentences of the data"
            )
    hypotheses, references = ([found[kind][i] for i in range(sentences)] for kind in "HT")
    return hypotheses, references


def detokenise(lines: list[str], language: str) -> list[str]:
    """Undo Moses tokenisation and its escapes."""
    moses = MosesDetokenizer(lang=language)
    return [moses.detokenize(line.split()) for line in lines]


def split_compounds(line: str) -> str:
    """Split the hyphenated compounds of a tokenised line.

    Does what get_ende_bleu.sh of tensor2tensor and compound_split_bleu.sh of fairseq do, after
    joining what Moses may have split (`rich @-@ text`). So the score does not depend on how the
    data was tokenised.
    """
    return COMPOUND.sub(r"\1 ##AT##-##AT## \2", line.replace(" @-@ ", "-"))


def build_tokenised_bleu() -> BLEU:
    """Build the BLEU of multi-bleu.perl and fairseq: on the given tokens, without smoothing."""
    return BLEU(tokenize="none", smooth_method="none", force=True)


def compute_score(metric: Metric, hypotheses: list[str], references: list[str]) -> dict[str, Any]:
    """Compute a corpus score, and sacreBLEU's signature of how it was computed."""
    value = metric.corpus_score(hypotheses, [references]).score
    return {"score": round(value, 2), "signature": str(metric.get_signature())}


def collect_measures(folder: Path, pair: tuple[str, str]) -> dict[str, Measure]:
    """Collect the metrics, and the texts in ``folder`` to apply them to, by name of the measure.

    Measures on raw references ignore case if no translation has a capital letter, as the model was
    then trained on lower-cased text.

    Args:
        folder: that `write_texts` wrote to.
        pair: source and target language.
    """
    hypotheses, references = read_lines(folder / "hyp.tok"), read_lines(folder / "ref.tok")
    found = {"bleu_tokenised": (build_tokenised_bleu(), hypotheses, references)}
    if pair == ("en", "de"):
        split = ([split_compounds(line) for line in text] for text in (hypotheses, references))
        found["bleu_compound_split"] = (build_tokenised_bleu(), *split)
    if not (folder / "ref.detok").exists():
        return {**found, "chrf_tokenised": (CHRF(), hypotheses, references)}
    plain, raw = read_lines(folder / "hyp.detok"), read_lines(folder / "ref.detok")
    lowercase = not any(c.isupper() for line in plain for c in line)
    found["sacrebleu"] = (BLEU(lowercase=lowercase), plain, raw)
    return {**found, "chrf": (CHRF(lowercase=lowercase), plain, raw)}


def write_texts(generated: Path, corpus: Corpus, out: Path, reference: Path | None) -> None:
    """Write hyp.tok and ref.tok to ``out``; with a raw reference, also hyp.detok and ref.detok."""
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
    """Parse the command line."""
    parser = build_parser(__spec__.name, __doc__)
    parser.add_argument("--generated", type=Path, required=True, help="output of fairseq-generate")
    parser.add_argument(
        "--data", type=Path, required=True, help="binarised data that fairseq-generate translated"
    )
    parser.add_argument(
        "--subset", default="test", help="split that was translated (default: %(default)s)"
    )
    parser.add_argument("--reference", type=Path, help="untokenised references, one per line")
    parser.add_argument("--out", type=Path, required=True, help="existing folder to write to")
    facts = parser.add_argument_group("copied into scores.json")
    facts.add_argument("--checkpoint", help="checkpoint that translated")
    facts.add_argument("--beam", type=positive_integer, help="beam size")
    facts.add_argument("--lenpen", type=float, help="length penalty")
    return parser.parse_args()


@report_errors(BadInput)
def main() -> None:
    """Run the command."""
    args = parse_args()
    if not args.out.is_dir():
        raise BadInput(f"--out: there is no folder {args.out}")
    corpus = Corpus.read(args.data, args.subset)
    write_texts(args.generated, corpus, args.out, args.reference)
    found = collect_measures(args.out, (corpus.source, corpus.target))
    scores = {name: compute_score(*measure) for name, measure in found.items()}
    facts = {key: getattr(args, key) for key in ("checkpoint", "beam", "lenpen", "subset")}
    record = {**facts, **dataclasses.asdict(corpus), **scores}
    write_lines(args.out / "scores.json", [json.dumps(record, indent=2)])
    for name, result in scores.items():
        print(f"{args.subset} {name} {result['score']:.2f}  {result['signature']}")


if __name__ == "__main__":
    main()
