"""Commands in processes of their own that do not wait for fairseq to be imported again.

multiprocessing's fork server imports it once. Each command is a fork of that server, so it can be
killed, and it can change modules of fairseq without an effect on other commands.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.helpers.fork_server import forking

# No test waits for a limit; it ends a command that hangs.
SECONDS = 120


class Ended(NamedTuple):
    """How a command ended: its status, negative for a signal, and what it printed."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        return self.output.rstrip().rpartition("\n")[2]


class Forked:
    """A command that runs: ``fairseq-train``, ``vision.train``, or a module of scripts.

    Args:
        command: the command's name.
        args: the arguments of its command line.
        folder: an existing folder, for a file with its output.
        prepare: is called in its process before the command starts; must be picklable.
    """

    def __init__(
        self,
        command: str,
        *args: object,
        folder: Path,
        prepare: Callable[[], None] | None = None,
    ):
        self._output = folder / "output"
        self.process = forking.Process(
            target=_run, args=(command, [*map(str, args)], prepare, self._output)
        )
        self.process.start()

    def output(self) -> str:
        """Read what the command has printed so far."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def end(self) -> Ended:
        """Wait until the command ends.

        Raises:
            TimeoutError: if it hangs.
        """
        self.process.join(SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"hangs after {self.output()[-3000:]}")
        return Ended(self.process.exitcode, self.output())


def run_forked(
    command: str, *args: object, folder: Path, prepare: Callable[[], None] | None = None
) -> Ended:
    """Run a command to its end; the arguments are those of `Forked`."""
    return Forked(command, *args, folder=folder, prepare=prepare).end()


def _run(command: str, args: list[str], prepare: Callable[[], None] | None, output: Path) -> None:
    with output.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    faulthandler.enable(file=2)
    sys.argv = [command, *args]
    package, _, name = command.replace("-", ".").partition(".")
    if package == "fairseq":
        # What ``prepare`` changes in fairseq lies around the patches, not below them.
        importlib.import_module("revcol_nlp.models")
    if prepare is not None:
        prepare()
    if package == "fairseq":
        sys.exit(importlib.import_module(f"fairseq_cli.{name}").cli_main())
    sys.exit(importlib.import_module(command).main())
