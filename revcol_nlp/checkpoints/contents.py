"""Load fairseq checkpoints with torch's safe loading left on, and say so when one is damaged."""

import argparse
import pickle
import re
import typing
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


class DamagedCheckpointError(RuntimeError):
    """A checkpoint file is cut short or overwritten."""


class UnusableCheckpointError(RuntimeError):
    """A file is whole, and what it holds is no checkpoint, or none that can be used."""


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
        DamagedCheckpointError: if it is. torch itself compares no checksums: of a file with a
            flipped bit it loads other weights than were saved.
        UnusableCheckpointError: if safe loading refuses the file.
    """
    if Path(path).is_file() and not is_whole(path):
        raise DamagedCheckpointError(_advice(Path(path)))
    try:
        yield
    except (EOFError, pickle.UnpicklingError) as error:
        # torch's own message says how to load the file all the same, running what is in it.
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"{found[1]}, which could run code" if found else "what is no data, or not all of it"
        raise UnusableCheckpointError(f"{path} was not loaded: it holds {what}") from error
    except RuntimeError as error:
        if "PytorchStreamReader" in str(error):  # headers of records have no checksums
            raise DamagedCheckpointError(_advice(Path(path))) from error
        raise


def check_contents(state: Any, path: str | Path) -> None:
    """Refuse what is no checkpoint of fairseq.

    Raises:
        UnusableCheckpointError: naming what is missing.
    """
    if not isinstance(state, Mapping):
        raise UnusableCheckpointError(f"{path} is no fairseq checkpoint: it holds no dictionary")
    weights, cfg, history = (state.get(name) for name in ("model", "cfg", "optimizer_history"))
    options = argparse.Namespace, Mapping
    is_there = {
        "weights": isinstance(weights, Mapping)
        and len(weights) > 0
        and all(isinstance(weight, torch.Tensor) for weight in weights.values()),
        "options of a model and a task": isinstance(state.get("args"), argparse.Namespace)
        or (
            isinstance(cfg, Mapping)
            and isinstance(cfg.get("model"), options)
            and isinstance(cfg.get("task", {}), options)
        ),
        # In files that are older than fairseq's history and state, these keys stand for them.
        "history of an optimiser": (history is None and "best_loss" in state)
        or (isinstance(history, list) and all(isinstance(entry, Mapping) for entry in history)),
        "state of a training": isinstance(state.get("extra_state"), Mapping) or "epoch" in state,
    }
    for what, there in is_there.items():
        if not there:
            raise UnusableCheckpointError(f"{path} is no fairseq checkpoint: it holds no {what}")


def check_weights(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, Any]) -> None:
    """Refuse weights that torch would copy into a model though they make no sense there.

    Args:
        ours: a model's.
        theirs: a checkpoint's; names and shapes are not compared, torch does that.

    Raises:
        UnusableCheckpointError: naming the first.
    """
    for name, weight in theirs.items():
        if not isinstance(weight, torch.Tensor) or name not in ours:
            continue
        if (weight.is_floating_point(), weight.is_complex()) != (
            ours[name].is_floating_point(),
            ours[name].is_complex(),
        ):
            kinds = f"{weight.dtype} in the checkpoint and {ours[name].dtype} in the model"
            raise UnusableCheckpointError(f"{name} is {kinds}")
        if weight.is_floating_point() and not weight.isfinite().all():
            raise UnusableCheckpointError(
                f"{name} is not finite in the checkpoint: use an earlier one"
            )


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
