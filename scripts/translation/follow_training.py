"""Summarise the JSON log of a fairseq training, and estimate when the training will end.

fairseq-train --log-format json ... | python -m scripts.translation.follow_training --max-update N

The command prints an estimate after the first line of figures and after each validation.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from scripts.lib.command_line import build_parser, positive_integer

RECORD = re.compile(r'\{"epoch": .*\}$')


def parse_records(lines: Iterable[str]) -> Iterator[dict[str, str | float]]:
    """Parse the figures at the end of each line that has them; skip repeated lines."""
    last = None
    for line in lines:
        if (found := RECORD.search(line)) and found[0] != last:
            last = found[0]
            yield json.loads(last)


def describe_remaining_time(updates: int, per_second: float, max_update: int) -> str:
    """Describe how long the remaining updates will take."""
    left = timedelta(seconds=round((max_update - updates) / per_second))
    end = datetime.now() + left
    return f"{max_update - updates:,} updates remain: {left}, until {end:%Y-%m-%d %H:%M}"


def summarise_training(lines: Iterable[str], max_update: int) -> Iterator[str]:
    """Summarise the log lines of a training of ``max_update`` updates, line by line."""
    estimated, speed = False, 0.0
    for figures in parse_records(lines):
        if valid := "valid_num_updates" in figures:
            updates = int(figures["valid_num_updates"])
            yield (
                f"update {updates:,}  valid loss {figures['valid_loss']}  "
                f"perplexity {figures['valid_ppl']}"
            )
        elif "num_updates" in figures:
            updates, speed = int(figures["num_updates"]), float(figures["ups"])
            yield (
                f"update {updates:,}  loss {figures['loss']}  perplexity {figures['ppl']}  "
                f"learning rate {figures['lr']}  {figures['wps']} words/s"
            )
        else:
            continue
        if speed and updates < max_update and (valid or not estimated):
            estimated = True
            yield describe_remaining_time(updates, speed, max_update)


def main() -> None:
    """Run the command on standard input."""
    parser = build_parser(__spec__.name, __doc__)
    parser.add_argument(
        "--max-update",
        type=positive_integer,
        required=True,
        metavar="N",
        help="number of updates of the whole training",
    )
    args = parser.parse_args()
    for line in summarise_training(sys.stdin, args.max_update):
        print(line, flush=True)


if __name__ == "__main__":
    main()
