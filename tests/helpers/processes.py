"""Several processes that work together, for the tests of training on several devices."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessException

# Before the first process is forked: the module says what the fork server imports.
import tests.helpers.fork_server  # noqa: F401


def run_in_processes(world: int, function: Callable[..., Any], *args: object) -> list[Any]:
    """Call ``function(*args)`` in each of ``world`` processes and return the results, by rank.

    The processes have the environment variables that torchrun sets, and one thread each.

    Args:
        world: number of processes.
        function: a function of a module; it must return what ``torch.load`` reads safely.
        args: its arguments, the same in every process.

    Raises:
        RuntimeError: with the traceback, if a process fails; the others are ended then.
    """
    with socket.socket() as free, TemporaryDirectory() as folder:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        try:
            multiprocessing.start_processes(
                _call_in_rank,
                (world, port, folder, function, args),
                nprocs=world,
                start_method="forkserver",
            )
        except ProcessException as error:
            output = "".join(path.read_text() for path in sorted(Path(folder).glob("*.txt")))
            raise RuntimeError(f"{output[-3000:]}\n{error}") from None
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]


def _call_in_rank(
    rank: int, world: int, port: int, folder: str, function: Callable[..., Any], args: tuple
) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "localhost"} | {name: str(n) for name, n in here.items()}
    torch.set_num_threads(1)
    output = os.open(f"{folder}/{rank}.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.save(function(*args), f"{folder}/{rank}.pt")
