"""Is one translation better than another, and how sure are we? sacreBLEU's paired bootstrap test.

python -m scripts.translation.compare NAME=FOLDER [NAME=FOLDER ...] [--json FILE]

Each FOLDER was made by scripts/translation/evaluate.sh from the same test set. The first system is
the one that every other is tested against; of one alone, scores and intervals are
given. What is printed is a Markdown table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sacrebleu.significance import PairedTest

from scripts.lib.command_line import BadInput, refusing
from scripts.lib.corpus_files import read_lines, write_lines
from scripts.translation.score import Measure, measures

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
    """A translation that scripts/translation/evaluate.sh has scored."""

    name: str
    folder: Path
    facts: dict[str, Any]
    measures: dict[str, Measure]

    @classmethod
    def of(cls, argument: str) -> System:
        """Read the system that `NAME=FOLDER` names."""
        name, equals, folder = argument.partition("=")
        if not (name and equals and folder):
            raise BadInput(f"a system is written NAME=FOLDER, not '{argument}'")
        path = Path(folder) / "scores.json"
        if not path.is_file():
            raise BadInput(
                f"{folder} holds no scores.json: scripts/translation/evaluate.sh makes one"
            )
        record = json.loads("\n".join(read_lines(path)))
        if missing := [fact for fact in FACTS if fact not in record]:
            raise BadInput(
                f"{path} does not say its {missing[0]}: run scripts/translation/evaluate.sh again"
            )
        pair = (record["source"], record["target"])
        facts = {fact: record[fact] for fact in FACTS}
        return cls(name, Path(folder), facts, measures(Path(folder), pair))

    def check_comparable(self, other: System) -> None:
        """Raise unless both were scored on the same references in the same way."""
        if odd := self.measures.keys() ^ other.measures.keys():
            raise BadInput(f"{self.name} and {other.name} do not both have {TITLES[min(odd)]}")
        for name, (metric, _, references) in self.measures.items():
            other_metric, _, other_references = other.measures[name]
            if references != other_references:
                raise BadInput(f"{self.name} and {other.name} have other references")
            if metric.lowercase != other_metric.lowercase:
                raise BadInput(f"only one of {self.name} and {other.name} has capital letters")


def bootstrap(systems: list[System], resamples: int) -> dict[str, Any]:
    """Scores with their intervals, and p-values against the first system, by system and measure."""
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
                p = 1.0  # no resample differs by more than nothing, which sacreBLEU takes for proof
            found["systems"][system]["scores"][name] = {
                "score": round(float(result.score), 2),
                "mean": round(float(result.mean), 2),
                "half_interval": round(float(result.ci), 2),
                "p": p and round(p, 4),
            }
    return found


def row(*cells: object) -> str:
    """One row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def cell(result: dict[str, Any]) -> str:
    """One score of the table, with its interval and what the test says."""
    text = f"{result['score']:.2f} ± {result['half_interval']:.2f}"
    return text if result["p"] is None else f"{text} (p = {result['p']:.4f})"


def verdict(baseline: str, name: str, found: dict[str, Any]) -> str:
    """Whether `name` is better than `baseline`, in a sentence."""
    measure = "sacrebleu" if "sacrebleu" in found["signatures"] else "bleu_tokenised"
    ours, theirs = (found["systems"][system]["scores"][measure] for system in (name, baseline))
    difference = ours["score"] - theirs["score"]
    by = f"{TITLES[measure]} {difference:+.2f}, p = {ours['p']:.4f}"
    if ours["p"] > SIGNIFICANT:
        return f"{name} is not shown to differ from {baseline}: {by}, above {SIGNIFICANT}."
    return f"{name} is {'better' if difference > 0 else 'worse'} than {baseline}: {by}."


def report(found: dict[str, Any]) -> list[str]:
    """The lines of the Markdown table, what its signs mean, and the verdicts."""
    names, baseline = list(found["systems"]), next(iter(found["systems"]))
    shown = [name for name in TITLES if name in found["signatures"]]
    lines = [
        row("", "beam", "length penalty", *(TITLES[name] for name in shown)),
        "|---" * (len(shown) + 3) + "|",
    ]
    for name, system in found["systems"].items():
        scores = (cell(system["scores"][measure]) for measure in shown)
        lines.append(row(name, system["beam"], system["lenpen"], *scores))
    lines += [
        "",
        f"{found['sentences']} sentences; ±: half of the 95% interval over {found['resamples']} "
        "bootstrap resamples"
        + (f"; p: paired bootstrap test against {baseline}." if len(names) > 1 else "."),
        "",
        *(f"- {TITLES[name]}: `{found['signatures'][name]}`" for name in shown),
    ]
    if len(names) > 1:
        lines += ["", *(verdict(baseline, name, found) for name in names[1:])]
    return lines


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("systems", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="bootstrap resamples (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here as well")
    return parser.parse_args()


@refusing(BadInput)
def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    args = parse_args()
    if args.resamples < 100:
        raise BadInput("--resamples needs at least 100, or p-values and intervals mean nothing")
    if args.json and not args.json.parent.is_dir():
        raise BadInput(f"there is no folder {args.json.parent} to write {args.json.name} to")
    systems = [System.of(argument) for argument in args.systems]
    if len({system.name for system in systems}) < len(systems):
        raise BadInput("each system needs a name of its own")
    for system in systems[1:]:
        systems[0].check_comparable(system)
    found = bootstrap(systems, args.resamples)
    if args.json:
        write_lines(args.json, [json.dumps(found, indent=2, ensure_ascii=False)])
    print("\n".join(report(found)))


if __name__ == "__main__":
    main()
