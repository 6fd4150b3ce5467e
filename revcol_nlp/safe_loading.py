"""Load fairseq checkpoints with torch's safe loading left on, and say so when one is damaged."""

import argparse
import typing
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch


class DamagedCheckpointError(RuntimeError):
    """A checkpoint file is cut short or overwritten."""


def allow_fairseq_globals() -> None:
    """Let torch's safe loading read the classes that fairseq keeps in a checkpoint file."""
    reconstruct = np.empty(0).__reduce__()[0]
    torch.serialization.add_safe_globals(
        [
            argparse.Namespace,  # the options of models registered with add_args
            # --eval-bleu keeps numpy numbers in its meters. A file written under numpy 1 names
            # the module of this function otherwise than one written under numpy 2.
            (reconstruct, "numpy.core.multiarray._reconstruct"),
            (reconstruct, "numpy._core.multiarray._reconstruct"),
            np.ndarray,
            np.dtype,
            type(np.dtype("int64")),
            type(np.dtype("float64")),
        ]
    )


def allow_broadcast_globals() -> None:
    """Let several processes resume: rank 0 reads the checkpoint and sends its state, configuration
    included, to the others, which receive it through ``torch.load``. Imports fairseq."""
    from fairseq.distributed.utils import _TensorPlaceholder
    from omegaconf import DictConfig, ListConfig
    from omegaconf.base import ContainerMetadata, Metadata
    from omegaconf.nodes import AnyNode

    torch.serialization.add_safe_globals(
        [
            _TensorPlaceholder,
            DictConfig,
            ListConfig,
            AnyNode,
            Metadata,
            ContainerMetadata,
            typing.Any,
            defaultdict,
            dict,
            list,
            int,
        ]
    )


@contextmanager
def explain_damage(path: str | Path) -> Iterator[None]:
    """Load the checkpoint at ``path`` inside this context, and a damaged file is called one.

    Raises:
        DamagedCheckpointError: in the place of whatever loading raised, where the file is damaged.
    """
    try:
        yield
    except Exception as error:
        # Depending on where the file ends, torch raises RuntimeError, OSError, EOFError, KeyError
        # or UnpicklingError, so the file is asked and not the exception.
        if not Path(path).is_file() or is_whole(path):
            raise
        raise DamagedCheckpointError(_advice(Path(path))) from error


def is_whole(path: str | Path) -> bool:
    """Whether every record in the checkpoint file at ``path`` reads back with its checksum."""
    with open(path, "rb") as file:
        if file.read(1) == b"\x80":
            return True  # a pickle, as torch wrote before 1.6: without checksums, torch has to tell
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile, too, raises anything at all on a broken archive
        return False


def _advice(damaged: Path) -> str:
    others = set(damaged.parent.glob("checkpoint*.pt")) - {damaged}
    newest_first = sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
    newest_whole = next(filter(is_whole, newest_first), None)
    if newest_whole is None:
        remedy = "there is no whole one in its folder, so delete it and train again"
    else:
        remedy = (
            f"the newest whole one in its folder is {newest_whole}, so delete the damaged file "
            f"and use that one (to resume training: --restore-file {newest_whole})"
        )
    return f"the checkpoint {damaged} is damaged (cut short or overwritten); {remedy}"
