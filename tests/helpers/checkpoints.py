"""Reading and comparing the checkpoints of fairseq trainings."""

from pathlib import Path
from typing import Any

import torch

from revcol_nlp.checkpoints.contents import allow_fairseq_globals


def load(checkpoint: Path) -> dict[str, Any]:
    """The content of a checkpoint of fairseq, on the CPU."""
    allow_fairseq_globals()
    return torch.load(checkpoint, map_location="cpu")


def assert_same_state(checkpoint: Path, expected: Path) -> None:
    """Parameters and optimiser state are equal to the last bit."""
    saved, wanted = load(checkpoint), load(expected)
    for key in ("model", "last_optimizer_state"):
        torch.testing.assert_close(saved[key], wanted[key], rtol=0, atol=0)
