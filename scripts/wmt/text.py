"""Process the text of WMT: clean parallel corpora, read test sets, count words, apply BPE, report.

scripts/wmt/prepare.sh runs these commands. Each one reads its input as a stream, gives chunks of
lines to a pool of processes and writes the results in the order of the input, so that memory does
not grow with the corpus.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from scripts.lib.command_line import BadInput, build_parser, positive_integer, report_errors, say
from scripts.wmt.cleaning import Rules, clean_corpus, make_test_set
from scripts.wmt.report import make_report, print_report
from scripts.wmt.subwords import count_words, encode_files

OPTIONS: dict[str, dict[str, Any]] = {
    "--archive": {"type": Path, "required": True, "help": "tar archive with the text"},
    "--name": {"required": True, "help": "file name in the archive, up to the language"},
    "--languages": {"nargs": 2, "required": True, "help": "source and target language"},
    "--dashes": {"action": "store_true", "help": "split words at their hyphens"},
    "--expected": {"type": int, "help": "official number of sentence pairs"},
    "--inputs": {"type": Path, "nargs": "+", "required": True, "help": "tokenised text files"},
    "--out": {"type": Path, "required": True, "help": "existing folder to write to"},
    "--workers": {"type": positive_integer, "required": True, "help": "number of processes"},
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = build_parser(__spec__.name, __doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def add_command(name: str, help: str, *options: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        for option in options:
            added.add_argument(option, **OPTIONS[option])
        return added

    corpus = ("--archive", "--name", "--languages", "--dashes", "--expected", "--out")
    cleaner = add_command("clean", "tokenise and clean a parallel corpus", *corpus, "--workers")
    cleaner.add_argument(
        "--max-length",
        type=positive_integer,
        required=True,
        help="drop pairs in which a sentence has more tokens",
    )
    cleaner.add_argument(
        "--ratio",
        type=float,
        required=True,
        help="drop pairs in which one sentence is more than so many times as long as the other",
    )
    reader = add_command("test-set", "read and tokenise a test set", *corpus)
    reader.add_argument("--split", required=True, help="name of the split: valid or test")
    counter = add_command("count-words", "count the words of files", "--inputs", "--workers")
    counter.add_argument("--output", type=Path, required=True, help="file to write")
    encoder = add_command("encode", "apply BPE to files", "--inputs", "--out", "--workers")
    encoder.add_argument("--codes", type=Path, required=True, help="codes that subword-nmt learnt")
    reporter = add_command(
        "report", "count what each stage made", "--out", "--languages", "--workers"
    )
    reporter.add_argument(
        "--corpora", nargs="+", required=True, help="names of the training corpora"
    )
    return parser.parse_args()


def run_command(args: argparse.Namespace) -> None:
    """Run the command that the user chose."""
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


@report_errors(BadInput, OSError)
def main() -> None:
    """Run the command."""
    try:
        run_command(parse_args())
    except BrokenProcessPool:
        say("error: a worker was killed, perhaps for lack of memory; try fewer --workers")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
