"""Contents of a fairseq checkpoint: classes that safe loading allows, parts, kinds of weights."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import UnusableCheckpointError


def list_fairseq_globals() -> list[Any]:
    """The classes and functions, besides torch's own, that a fairseq checkpoint file refers to.

    Returns:
        entries for ``torch.serialization.add_safe_globals``.
    """
    reconstruct = np.empty(0).__reduce__()[0]
    return [
        argparse.Namespace,  # the options of models registered with add_args
        # --eval-bleu keeps numpy numbers in its meters. numpy 1 and numpy 2 write different module
        # names for this function.
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (reconstruct, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        type(np.dtype("int64")),
        type(np.dtype("float64")),
    ]


def allow_fairseq_globals() -> None:
    """Let torch's safe loading read the classes of `list_fairseq_globals`, in this process."""
    torch.serialization.add_safe_globals(list_fairseq_globals())


def check_contents(state: Any, path: str) -> None:
    """Check that a loaded file has all parts of a fairseq checkpoint.

    Args:
        state: the content of the file.
        path: the file's path, for the message.

    Raises:
        UnusableCheckpointError: naming the part that is missing.
    """
    if not isinstance(state, Mapping):
        raise UnusableCheckpointError(f"{path} is not a fairseq checkpoint: it is not a dictionary")
    weights, cfg, history = (state.get(name) for name in ("model", "cfg", "optimizer_history"))
    options = argparse.Namespace, Mapping
    has_part = {
        "weights": isinstance(weights, Mapping)
        and len(weights) > 0
        and all(isinstance(weight, Tensor) for weight in weights.values()),
        "options of a model and a task": isinstance(state.get("args"), argparse.Namespace)
        or (
            isinstance(cfg, Mapping)
            and isinstance(cfg.get("model"), options)
            and isinstance(cfg.get("task", {}), options)
        ),
        # Older files have these keys in place of fairseq's history and state.
        "history of an optimiser": (history is None and "best_loss" in state)
        or (isinstance(history, list) and all(isinstance(entry, Mapping) for entry in history)),
        "state of a training": isinstance(state.get("extra_state"), Mapping) or "epoch" in state,
    }
    for part, is_there in has_part.items():
        if not is_there:
            raise UnusableCheckpointError(
                f"{path} is not a fairseq checkpoint: it does not hold the {part}"
            )


def check_kinds(ours: Mapping[str, Tensor], theirs: Mapping[str, Any]) -> None:
    """Check that weights are integer, real or complex where the model's weights are.

    torch would copy other kinds into the model without a word. Names and shapes are not compared,
    since torch compares them. No values are read, so that no device has to be waited for.

    Args:
        ours: the weights of a model.
        theirs: the weights of a checkpoint.

    Raises:
        UnusableCheckpointError: naming the first weight of another kind.
    """
    for name, weight in theirs.items():
        if not isinstance(weight, Tensor) or name not in ours:
            continue
        if _get_kind(weight) != _get_kind(ours[name]):
            raise UnusableCheckpointError(
                f"{name} is {weight.dtype} in the checkpoint and {ours[name].dtype} in the model"
            )


def check_finite(weights: Mapping[str, Any]) -> None:
    """Check that no weight of a checkpoint file is infinite or nan.

    Raises:
        UnusableCheckpointError: naming the first weight that is.
    """
    for name, weight in weights.items():
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            continue
        if not weight.isfinite().all():
            raise UnusableCheckpointError(
                f"{name} is not finite in the checkpoint: use an earlier one"
            )


def check_weights(ours: Mapping[str, Tensor], theirs: Mapping[str, Any]) -> None:
    """Check the weights of a checkpoint file by `check_kinds` and `check_finite`.

    Args:
        ours: the weights of a model.
        theirs: the weights of a checkpoint file.

    Raises:
        UnusableCheckpointError: naming the first weight that cannot be used.
    """
    check_kinds(ours, theirs)
    check_finite({name: weight for name, weight in theirs.items() if name in ours})


def _get_kind(weight: Tensor) -> tuple[bool, bool]:
    return weight.is_floating_point(), weight.is_complex()
