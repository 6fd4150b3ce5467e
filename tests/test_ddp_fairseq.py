"""fairseq-train in several processes computes what one computes with their batches joined."""

import sys
from pathlib import Path
from typing import Any

import fairseq_cli.train
import pytest
import torch
from fairseq.logging import metrics
from fairseq.trainer import Trainer

from tests.conftest import TINY_MODEL, TRAINING
from tests.processes import run


def train(*args: object) -> list[tuple[float, float]]:
    """Loss and gradient norm of each update of a ``fairseq-train``, as fairseq has them."""
    curve = []
    original = Trainer.train_step

    def train_step(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        meters = (metrics.get_meter("train_inner", name) for name in ("loss", "gnorm"))
        curve.append(tuple(float(meter.val) for meter in meters))
        return output

    Trainer.train_step = train_step
    sys.argv = ["fairseq-train", *map(str, args)]
    fairseq_cli.train.cli_main()
    return curve
