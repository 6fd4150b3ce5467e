"""What comes of importing fairseq, the columns and the plugin in some order.

This file imports neither, so that a process which executes an order begins without them.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any


def execute(statements: Sequence[str], folder: str) -> dict[str, Any]:
    """Execute the statements of a user in ``folder``, one after the other.

    Returns:
        whether fairseq knows the models, the patches that are installed, and what is replaced in
        the trainer and in the commands that are imported.
    """
    os.chdir(folder)
    for statement in statements:
        exec(statement, {})
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.trainer import Trainer

    patches = sys.modules.get("revcol_nlp.fairseq_patches")
    replaced = [name for name in dir(Trainer) if is_ours(getattr(Trainer, name))]
    for name, function in (("train", "add_defaults"), ("interactive", "make_batches")):
        command = sys.modules.get(f"fairseq_cli.{name}")
        if is_ours(getattr(command, function, None)):
            replaced.append(function)
    return {
        "is registered": "revcol_transformer_tiny" in ARCH_MODEL_REGISTRY,
        "patches": patches.list_installed() if patches is not None else [],
        "replaced": replaced,
    }


def is_ours(function: Any) -> bool:
    """Whether a function was put there by the plugin."""
    return "fairseq_patches" in getattr(getattr(function, "__code__", None), "co_filename", "")


def execute_and_send(statements: Sequence[str], folder: str, connection: Any) -> None:
    """`execute`, and send what it returns through a connection of multiprocessing."""
    connection.send(execute(statements, folder))


def main() -> None:
    """Execute each order of the JSON list in the command line in a fork of this process, which has
    imported torch alone; print a line of JSON for each."""
    import torch  # noqa: F401 (once for all)

    assert not {"fairseq", "revcol_nlp"} & sys.modules.keys()
    for statements in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            found = execute(statements, os.getcwd())
            print(f"\n{json.dumps(found)}", flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
