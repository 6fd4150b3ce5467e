"""Several processes that work together, for the tests of training on several devices."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessException

import tests.conftest  # noqa: F401 (says what the fork server imports)


def run(world: int, function: Callable[..., Any], *args: object) -> list[Any]:
    """What ``function(*args)`` returned in each of ``world`` processes, started as by torchrun.

    Raises:
        RuntimeError: with the traceback, if one fails; the others are ended then.
    """
    with socket.socket() as free, TemporaryDirectory() as folder:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        try:
            multiprocessing.start_processes(
                _run, (world, port, folder, function, args), nprocs=world, start_method="forkserver"
            )
        except ProcessException as error:
            output = "".join(path.read_text() for path in sorted(Path(folder).glob("*.txt")))
            raise RuntimeError(f"{output[-3000:]}\n{error}") from None
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(world)]


def _run(
    rank: int, world: int, port: int, folder: str, function: Callable[..., Any], args: tuple
) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "localhost"} | {name: str(n) for name, n in here.items()}
    torch.set_num_threads(1)
    output = os.open(f"{folder}/{rank}.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.save(function(*args), f"{folder}/{rank}.pt")
