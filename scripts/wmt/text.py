"""The text of WMT: clean parallel corpora, read test sets, count words, apply BPE, report.

The commands of scripts/wmt/prepare.sh. Each reads its input as a stream, hands chunks of lines to
a pool of processes and writes what comes back in the order of the input, so that memory does not
grow with the corpus.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from scripts.lib.command_line import BadInput, refusing, say
from scripts.wmt.cleaning import Rules, clean_corpus, make_test_set
from scripts.wmt.report import make_report, print_report
from scripts.wmt.subwords import count_words, encode_files

OPTIONS: dict[str, dict[str, Any]] = {
    "--archive": {"type": Path, "required": True, "help": "the tar archive that holds it"},
    "--name": {"required": True, "help": "its file name there, up to the language"},
    "--languages": {"nargs": 2, "required": True, "help": "source and target language"},
    "--dashes": {"action": "store_true", "help": "split words at their hyphens"},
    "--expected": {"type": int, "help": "how many sentence pairs it should have"},
    "--inputs": {"type": Path, "nargs": "+", "required": True, "help": "tokenised text"},
    "--out": {"type": Path, "required": True, "help": "an existing folder to write to"},
    "--workers": {"type": int, "required": True, "help": "number of processes"},
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str, *options: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        for option in options:
            added.add_argument(option, **OPTIONS[option])
        return added

    corpus = ("--archive", "--name", "--languages", "--dashes", "--expected", "--out")
    cleaner = command("clean", "tokenise and clean a parallel corpus", *corpus, "--workers")
    cleaner.add_argument("--max-length", type=int, required=True, help="tokens of a sentence")
    cleaner.add_argument("--ratio", type=float, required=True, help="of the sentences of a pair")
    reader = command("test-set", "read and tokenise a test set", *corpus)
    reader.add_argument("--split", required=True, help="what to call it")
    counter = command("count-words", "count the words of files", "--inputs", "--workers")
    counter.add_argument("--output", type=Path, required=True, help="the file to write")
    encoder = command("encode", "apply BPE to files", "--inputs", "--out", "--workers")
    encoder.add_argument("--codes", type=Path, required=True, help="what learn_bpe wrote")
    reporter = command("report", "count what was made", "--out", "--languages", "--workers")
    reporter.add_argument("--corpora", nargs="+", required=True, help="the corpora of train")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Run one command."""
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


@refusing(BadInput, OSError)
def main() -> None:
    """Run the command line; bad input ends it with one sentence and exit status 2."""
    try:
        run(parse_args())
    except BrokenProcessPool:
        say("error: a worker was killed, by the system perhaps for want of memory: fewer --workers")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
