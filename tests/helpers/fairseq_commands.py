"""Run fairseq's commands as a user does: each in a process of its own, which loads the plugin."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import torch

from tests.helpers.fork_server import forking

USER_DIR = Path(__file__).parents[2] / "revcol_nlp"

# Options of fairseq-train for a model that trains in seconds.
TINY_MODEL = (
    *("--user-dir", USER_DIR, "--arch", "revcol_transformer_tiny", "--share-all-embeddings"),
    *("--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32"),
    *("--encoder-attention-heads", "2", "--decoder-layers", "1"),
    *("--decoder-embed-dim", "16", "--decoder-ffn-embed-dim", "32"),
    *("--decoder-attention-heads", "2"),
)

# Options of fairseq-train for a few updates on `toy_data`.
TRAINING = (
    *("--optimizer", "adam", "--lr", "0.005", "--criterion", "label_smoothed_cross_entropy"),
    *("--max-tokens", "400", "--num-workers", "0", "--seed", "7", "--no-progress-bar", "--cpu"),
)

Completed = subprocess.CompletedProcess[str]


class RunFairseq(Protocol):
    """The type of the fixture ``run_fairseq``; see `FairseqRunner`."""

    def __call__(
        self,
        command: str,
        *args: object,
        check: bool = True,
        processes: int = 1,
        input: str | None = None,
        **environment: str,
    ) -> Completed: ...


class FairseqRunner:
    """Calling it runs ``fairseq_cli.<command>`` and returns its exit status, stdout and stderr.

    One process is forked from a server that has imported fairseq but not the plugin. Several
    processes are started by torchrun.

    Args:
        folder: an existing folder for the output of the commands.

    Calling it raises RuntimeError with the end of the output if the command fails, unless
    ``check=False``.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._numbers = itertools.count()

    def __call__(
        self,
        command: str,
        *args: object,
        check: bool = True,
        processes: int = 1,
        input: str | None = None,
        **environment: str,
    ) -> Completed:
        module, arguments = f"fairseq_cli.{command}", [str(argument) for argument in args]
        if processes == 1:
            done = self._run_forked(module, arguments, environment, input)
        else:
            done = _run_torchrun(module, arguments, environment, processes)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def _run_forked(
        self, module: str, arguments: list[str], environment: dict[str, str], input: str | None
    ) -> Completed:
        log, stdin = str(self._folder / str(next(self._numbers))), os.devnull
        if input is not None:
            stdin = f"{log}.in"
            Path(stdin).write_text(input)
        process = forking.Process(
            target=_execute_command, args=(module, arguments, environment, stdin, log)
        )
        process.start()
        process.join()
        out, err = (Path(f"{log}.{name}").read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, err)


def _run_torchrun(
    module: str, arguments: list[str], environment: dict[str, str], processes: int
) -> Completed:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc_per_node", str(processes), "-m", module, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )


def _execute_command(
    module: str, arguments: list[str], environment: dict[str, str], stdin: str, log: str
) -> None:
    """Do in a forked process what the console script of a fairseq command does."""
    streams = ((stdin, "r"), (f"{log}.out", "w"), (f"{log}.err", "w"))
    for descriptor, (name, mode) in enumerate(streams):
        with open(name, mode) as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdin = os.fdopen(0)
    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    importlib.import_module(module).cli_main()
