"""Compare translation systems with sacreBLEU's paired bootstrap test.

python -m scripts.translation.compare NAME=FOLDER [NAME=FOLDER ...] [--json FILE]

scripts/translation/evaluate.sh made each FOLDER, all from the same test set. The command tests
every system against the first one. It prints a Markdown table of scores and their intervals, and
one sentence per test. With a single system it prints scores and intervals only.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.significance import PairedTest

from scripts.lib.command_line import BadInput, build_parser, positive_integer, report_errors
from scripts.lib.corpus_files import read_lines, write_lines
from scripts.lib.tables import format_table
from scripts.translation.score import Measure, collect_measures

TITLES = {
    "sacrebleu": "sacreBLEU",
    "bleu_tokenised": "tokenised BLEU",
    "bleu_compound_split": "compound-split BLEU",
    "chrf": "chrF",
    "chrf_tokenised": "chrF, tokenised",
}
SIGNIFICANT = 0.05
FACTS = ("checkpoint", "beam", "lenpen", "subset", "sentences", "source", "target")


@dataclass(frozen=True)
class System:
    """A system whose translations scripts/translation/evaluate.sh has scored."""

    name: str
    folder: Path
    facts: dict[str, Any]
    measures: dict[str, Measure]

    @classmethod
    def read(cls, argument: str) -> System:
        """Read the system that an argument ``NAME=FOLDER`` names."""
        name, equals, folder = argument.partition("=")
        if not (name and equals and folder):
            raise BadInput(f"a system is written NAME=FOLDER, not '{argument}'")
        path = Path(folder) / "scores.json"
        if not path.is_file():
            raise BadInput(
                f"{folder} holds no scores.json; scripts/translation/evaluate.sh makes one"
            )
        record = json.loads("\n".join(read_lines(path)))
        if missing := [fact for fact in FACTS if fact not in record]:
            raise BadInput(
                f"{path} lacks '{missing[0]}': run scripts/translation/evaluate.sh again"
            )
        pair = (record["source"], record["target"])
        facts = {fact: record[fact] for fact in FACTS}
        return cls(name, Path(folder), facts, collect_measures(Path(folder), pair))

    def check_comparable(self, other: System) -> None:
        """Check that both systems were scored on the same references and in the same way.

        Raises:
            BadInput: if not.
        """
        if odd := self.measures.keys() ^ other.measures.keys():
            raise BadInput(f"only one of {self.name} and {other.name} has {TITLES[min(odd)]}")
        for name, (metric, _, references) in self.measures.items():
            other_metric, _, other_references = other.measures[name]
            if references != other_references:
                raise BadInput(f"{self.name} and {other.name} have different references")
            if metric.lowercase != other_metric.lowercase:
                raise BadInput(f"only one of {self.name} and {other.name} writes capital letters")


def bootstrap(systems: list[System], resamples: int) -> dict[str, Any]:
    """Compute scores, their intervals and p-values against the first system.

    Returns:
        A dictionary that can be written as JSON; its ``systems`` hold the scores by measure.
    """
    found: dict[str, Any] = {
        "sentences": systems[0].facts["sentences"],
        "resamples": resamples,
        "signatures": {},
        "systems": {s.name: {"folder": str(s.folder), **s.facts, "scores": {}} for s in systems},
    }
    for name, (metric, baseline, references) in systems[0].measures.items():
        named = [(system.name, system.measures[name][1]) for system in systems]
        signatures, results = PairedTest(
            named, {name: metric}, [references], test_type="bs", n_samples=resamples
        )()
        ((key, signature),) = signatures.items()
        found["signatures"][name] = str(signature)
        for (system, hypotheses), result in zip(named, results[key], strict=True):
            p = result.p_value
            if p is not None and hypotheses == baseline:
                p = 1.0  # all differences are 0, for which sacreBLEU reports the lowest p
            found["systems"][system]["scores"][name] = {
                "score": round(float(result.score), 2),
                "mean": round(float(result.mean), 2),
                "half_interval": round(float(result.ci), 2),
                "p": p and round(p, 4),
            }
    return found


def format_score(result: dict[str, Any]) -> str:
    """Format a score with half of its interval and its p-value."""
    text = f"{result['score']:.2f} ± {result['half_interval']:.2f}"
    return text if result["p"] is None else f"{text} (p = {result['p']:.4f})"


def write_verdict(baseline: str, name: str, found: dict[str, Any]) -> str:
    """Write a sentence that says whether ``name`` is better than ``baseline``."""
    measure = "sacrebleu" if "sacrebleu" in found["signatures"] else "bleu_tokenised"
    ours, theirs = (found["systems"][system]["scores"][measure] for system in (name, baseline))
    difference = ours["score"] - theirs["score"]
    by = f"{TITLES[measure]} {difference:+.2f}, p = {ours['p']:.4f}"
    if ours["p"] > SIGNIFICANT:
        return f"{name} does not differ significantly from {baseline}: {by}, above {SIGNIFICANT}."
    return f"{name} is {'better' if difference > 0 else 'worse'} than {baseline}: {by}."


def format_report(found: dict[str, Any]) -> list[str]:
    """Format the lines of the Markdown table, its legend, and the verdicts."""
    names, baseline = list(found["systems"]), next(iter(found["systems"]))
    shown = [name for name in TITLES if name in found["signatures"]]
    rows = [
        (
            name,
            system["beam"],
            system["lenpen"],
            *(format_score(system["scores"][measure]) for measure in shown),
        )
        for name, system in found["systems"].items()
    ]
    header = ("system", "beam", "length penalty", *(TITLES[name] for name in shown))
    lines = [
        format_table(header, rows),
        "",
        f"{found['sentences']} sentences; ±: half of the 95% interval over {found['resamples']} "
        "bootstrap resamples"
        + (f"; p: paired bootstrap test against {baseline}." if len(names) > 1 else "."),
        "",
        *(f"- {TITLES[name]}: `{found['signatures'][name]}`" for name in shown),
    ]
    if len(names) > 1:
        lines += ["", *(write_verdict(baseline, name, found) for name in names[1:])]
    return lines


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser(__spec__.name, __doc__)
    parser.add_argument(
        "systems", nargs="+", metavar="NAME=FOLDER", help="name of a system, folder of its scores"
    )
    parser.add_argument(
        "--resamples",
        type=positive_integer,
        default=1000,
        metavar="N",
        help="number of bootstrap resamples, at least 100 (default: %(default)s)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all figures to this file"
    )
    return parser.parse_args()


@report_errors(BadInput)
def main() -> None:
    """Run the command."""
    args = parse_args()
    if args.resamples < 100:
        raise BadInput("--resamples must be at least 100 for meaningful p-values and intervals")
    if args.json and not args.json.parent.is_dir():
        raise BadInput(f"there is no folder {args.json.parent} to write {args.json.name} to")
    systems = [System.read(argument) for argument in args.systems]
    if len({system.name for system in systems}) < len(systems):
        raise BadInput("two systems have the same name")
    for system in systems[1:]:
        systems[0].check_comparable(system)
    found = bootstrap(systems, args.resamples)
    if args.json:
        write_lines(args.json, [json.dumps(found, indent=2, ensure_ascii=False)])
    print("\n".join(format_report(found)))


if __name__ == "__main__":
    main()
