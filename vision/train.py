"""Trains a timm model: python -m vision.train DATA --model NAME --recipe NAME

On several devices: torchrun --nproc_per_node 2 -m vision.train DATA ...
The same command resumes a run that was interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vision.training.command import run_command
from vision.training.options import parse_training


def train(argv: Sequence[str]) -> None:
    """Trains as the command line says, and prints the report."""
    options = parse_training(argv)
    # Imported only now, so that --help and mistakes in the options are answered without it.
    from vision.training.run import run_training

    run_training(options)


def main() -> int:
    return run_command(train, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
