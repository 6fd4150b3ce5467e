"""Measures the accuracy of a checkpoint: python -m vision.validate DATA --checkpoint FILE"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vision.training.command import run_command
from vision.training.options import parse_validation


def validate(argv: Sequence[str]) -> None:
    """Measures the checkpoint that the command line names, and prints the results."""
    configs = parse_validation(argv)
    # Imported only now, so that --help and mistakes in the options are answered without it.
    from vision.training.evaluation import validate_checkpoint

    validate_checkpoint(*configs)


def main() -> int:
    return run_command(validate, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
