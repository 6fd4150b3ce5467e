"""Print what a fairseq training says in JSON, in short, and when it will be done.

fairseq-train --log-format json ... | python -m scripts.translation.follow_training --max-update N

The expected time comes with the first hundred updates that are seen, and with each validation.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

RECORD = re.compile(r'\{"epoch": .*\}$')


def records(lines: Iterable[str]) -> Iterator[dict[str, str | float]]:
    """The figures in each line that ends with some; a line that comes again is left out."""
    last = None
    for line in lines:
        if (found := RECORD.search(line)) and found[0] != last:
            last = found[0]
            yield json.loads(last)


def remaining(updates: int, per_second: float, max_update: int) -> str:
    """How long the rest will take, as a sentence."""
    left = timedelta(seconds=round((max_update - updates) / per_second))
    end = datetime.now() + left
    return f"{max_update - updates:,} updates remain: {left}, until {end:%Y-%m-%d %H:%M}"


def follow(lines: Iterable[str], max_update: int) -> Iterator[str]:
    """What to print for the lines of a training that makes ``max_update`` updates."""
    told, speed = False, 0.0
    for figures in records(lines):
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
        if speed and updates < max_update and (valid or not told):
            told = True
            yield remaining(updates, speed, max_update)


def main() -> None:
    """Follow stdin."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--max-update", type=int, required=True, metavar="N")
    args = parser.parse_args()
    for line in follow(sys.stdin, args.max_update):
        print(line, flush=True)


if __name__ == "__main__":
    main()
