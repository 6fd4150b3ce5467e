"""``--init-decoder-from``: begin a training with the decoder and embeddings of another model.

The model is one of fairseq's ``transformer`` or a RevCol-Transformer, of the same width, depth and
dictionary. Only the beginning of a training reads it: a resumed training and everything that loads
the trained model do not.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.trainer import Trainer
from torch import Tensor

from ..checkpoints.options import DECODER_OPTIONS, model_options, option_difference

logger = logging.getLogger(__name__)

PARTS = ("decoder.", "encoder.embed_", "encoder.layernorm_embedding.")
NOT_WEIGHTS = (".version", "._float_tensor")


def begin_with_decoder(
    load_checkpoint: Callable, self: Trainer, *args: Any, **kwargs: Any
) -> dict[str, Any] | None:
    """Stands in for ``Trainer.load_checkpoint``, which finds nothing when a training begins."""
    path = getattr(self.cfg.model, "init_decoder_from", None)
    if path is not None and self.cfg.checkpoint.finetune_from_model is not None:
        raise ValueError(
            "--finetune-from-model gives the model all its weights: remove --init-decoder-from"
        )
    extra_state = load_checkpoint(self, *args, **kwargs)
    if path is not None and extra_state is None:
        init_decoder(self.get_model(), self.cfg.model, path)
    return extra_state


def init_decoder(model: FairseqEncoderDecoderModel, options: Any, path: str) -> None:
    """Copy the decoder and all embeddings of the checkpoint at ``path`` into ``model``.

    A fairseq ``transformer`` tells of its dictionary no more than the size, and a warning says so.

    Args:
        model: a RevCol-Transformer.
        options: what it was built from, as a Namespace or a mapping.

    Raises:
        ValueError: if not every weight of that part of ``model`` has its match in the checkpoint.
        DictionaryMismatchError: if the checkpoint was trained with another dictionary.
    """
    if not PathManager.isfile(path):
        raise ValueError(f"--init-decoder-from names no file: {path}")
    checkpoint = checkpoint_utils.load_checkpoint_to_cpu(path)
    theirs, ours = _part(checkpoint["model"].items()), _part(model.state_dict().items())
    difference = (
        _size_difference(theirs, ours)
        or _option_difference(model_options(checkpoint), options)
        or _sharing_difference(theirs, ours)
    )
    if difference is not None:
        raise ValueError(f"--init-decoder-from {path} does not fit this model: {difference}")
    for side in ("encoder", "decoder"):
        version = checkpoint["model"].get(f"{side}.dictionary_fingerprint.version")
        found = {} if version is None else {"version": version}
        getattr(model, side).dictionary_fingerprint.load_state_dict(found, strict=False)
    for name, weight in ours.items():
        weight.copy_(theirs[name])
    logger.info(f"decoder and embeddings begin as those of {path}")


def _part(weights: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {k: v for k, v in weights if k.startswith(PARTS) and not k.endswith(NOT_WEIGHTS)}


def _size_difference(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str | None:
    depths = [_depth(theirs), _depth(ours)]
    if depths[0] != depths[1]:
        return f"its decoder has {depths[0]} layers and this one {depths[1]}"
    if odd := sorted(theirs.keys() ^ ours.keys()):
        return f"only {'it' if odd[0] in theirs else 'this model'} has {odd[0]}"
    for name, weight in ours.items():
        shape, our_shape = tuple(theirs[name].shape), tuple(weight.shape)
        if shape == our_shape:
            continue
        if name.endswith("embed_tokens.weight") and shape[1:] == our_shape[1:]:
            return f"its dictionary has {shape[0]} entries and this one {our_shape[0]}"
        return f"{name} is {shape} there and {our_shape} here"
    return None


def _option_difference(theirs: Any, ours: Any) -> str | None:
    difference = option_difference(theirs, ours, DECODER_OPTIONS)
    return difference and "{} is {} there and {} here".format(*difference)


def _depth(weights: dict[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in weights if name.startswith("decoder.layers.")})


def _sharing_difference(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str | None:
    first: dict[int, str] = {}
    for name, weight in ours.items():
        twin = first.setdefault(weight.data_ptr(), name)
        if not torch.equal(theirs[twin], theirs[name]):
            return f"{twin} and {name} are one table here and two there"
    return None
