"""The processes that train together: devices, sums over all processes, and logging."""

from __future__ import annotations

import logging
import sys
from typing import Any, NamedTuple

import torch
from timm.utils.distributed import init_distributed_device_so, is_distributed_env
from torch import distributed

from vision.training.command import UserError


class Process(NamedTuple):
    """This process among the ``world`` processes that torchrun started; without it, one of one."""

    device: torch.device
    rank: int
    world: int

    @property
    def primary(self) -> bool:
        """True in the one process that writes files and reports."""
        return self.rank == 0


def join_processes(device: str | None) -> Process:
    """Joins the other processes, if torchrun started several.

    Args:
        device: of this process, as torch names it; None: a GPU if there is one, else the CPU.

    Raises:
        UserError: if the device cannot be used.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        backend = _choose_backend(device) if is_distributed_env() else None
        joined = init_distributed_device_so(device, dist_backend=backend)
        torch.empty(0, device=joined["device"])
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--device {device} cannot be used: {reason}") from None
    return Process(torch.device(joined["device"]), joined["global_rank"], joined["world_size"])


def _choose_backend(device: str) -> str:
    """Returns torch's backend for the device, and gloo for tensors on the CPU beside it.

    Sums of single numbers run on the CPU. So they do not wait for the device, and float64 is
    available whatever the device is.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        return "gloo"
    return f"cpu:gloo,{kind}:{distributed.get_default_backend_for_device(kind)}"


def configure_logging(process: Process) -> None:
    """Prints log messages to standard output; of other processes than the primary, warnings."""
    level = logging.INFO if process.primary else logging.WARNING
    logging.basicConfig(format="%(message)s", level=level, stream=sys.stdout)


def sum_over_processes(process: Process, *values: float) -> list[float]:
    """Sums each value over all processes, in float64 on the CPU."""
    if process.world == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    return sums.tolist()


def broadcast_from_primary(process: Process, value: Any) -> Any:
    """Returns the primary process's ``value`` in every process."""
    if process.world == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def wait_for_all(process: Process) -> None:
    """Returns when every process has called it."""
    if process.world > 1:
        distributed.barrier()
