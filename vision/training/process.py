"""The processes of a command: the device of each, sums over all, and how a command ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from timm.utils.distributed import init_distributed_device_so
from torch import distributed

from vision.training.errors import Interrupted, UserError


class Process(NamedTuple):
    """This process among the ``world`` that torchrun started; alone without it."""

    device: torch.device
    rank: int
    world: int

    @property
    def primary(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


def start(device: str | None) -> Process:
    """Joins the other processes, on ``device`` or else a GPU or else the CPU.

    Raises:
        UserError: if there is no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        started = init_distributed_device_so(device)
        torch.empty(0, device=started["device"])
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {device} cannot be used: {reason}") from None
    process = Process(
        torch.device(started["device"]), started["global_rank"], started["world_size"]
    )
    logging.basicConfig(
        format="%(message)s",
        level=logging.INFO if process.primary else logging.WARNING,
        stream=sys.stdout,
    )
    return process


def total(process: Process, *numbers: float) -> Sequence[float]:
    """The sum of each number over all processes."""
    if process.world == 1:
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64, device=process.device)
    distributed.all_reduce(sums)
    return sums.tolist()


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs ``command(argv)``; the exit status, after a sentence on what ended it early."""
    import vision  # noqa: F401  registers its models with timm

    logging.getLogger("timm").setLevel(logging.WARNING)
    try:
        command(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0
