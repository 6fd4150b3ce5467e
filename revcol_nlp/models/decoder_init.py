"""``--init-decoder-from``: start a training with the decoder and embeddings of another model.

The other model is fairseq's ``transformer`` or a RevCol-Transformer, with the same width and depth
of the decoder and the same dictionary. Only a new training reads the checkpoint: resuming it, and
loading its model, do not.
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
# Buffers of fairseq and of the dictionary's fingerprint, which are not weights.
BUFFERS = (".version", "._float_tensor")


def begin_with_decoder(
    load_checkpoint: Callable, self: Trainer, *args: Any, **kwargs: Any
) -> dict[str, Any] | None:
    """Replace ``Trainer.load_checkpoint``: if it finds no checkpoint, a new training begins.

    Args:
        load_checkpoint: fairseq's method.
        self: the trainer; the other arguments are those of the method.

    Raises:
        ValueError: if ``--finetune-from-model`` is given as well, or the decoder does not fit.
    """
    path = getattr(self.cfg.model, "init_decoder_from", None)
    if path is not None and self.cfg.checkpoint.finetune_from_model is not None:
        raise ValueError(
            f"--init-decoder-from {path} has no effect with --finetune-from-model, which gives the "
            "model all its weights; remove --init-decoder-from"
        )
    extra_state = load_checkpoint(self, *args, **kwargs)
    if path is not None and extra_state is None:
        init_decoder(self.get_model(), self.cfg.model, path)
    return extra_state


def init_decoder(model: FairseqEncoderDecoderModel, options: Any, path: str) -> None:
    """Copy the decoder and all embeddings of the checkpoint at ``path`` into ``model``.

    The checkpoint of a fairseq ``transformer`` stores only the size of its dictionary, so a warning
    is logged: its symbols cannot be compared. If an error is raised, nothing has been copied.

    Args:
        model: a RevCol-Transformer.
        options: the options it was built from, as a Namespace or a mapping.
        path: a checkpoint of fairseq.

    Raises:
        ValueError: if there is no such file, or a weight of that part of ``model`` has no
            counterpart of the same shape and meaning in the checkpoint.
        DictionaryMismatchError: if the checkpoint was trained with another dictionary.
    """
    if not PathManager.isfile(path):
        raise ValueError(
            f"--init-decoder-from {path} is not a file; give the path of a checkpoint of fairseq"
        )
    checkpoint = checkpoint_utils.load_checkpoint_to_cpu(path)
    theirs = _select_weights(checkpoint["model"].items())
    ours = _select_weights(model.state_dict().items())
    difference = (
        _find_size_difference(theirs, ours)
        or _find_option_difference(model_options(checkpoint), options)
        or _find_sharing_difference(theirs, ours)
    )
    if difference is not None:
        raise ValueError(
            f"--init-decoder-from {path} does not fit this model: {difference}; use another "
            "checkpoint, or change the options of this model"
        )
    for side in ("encoder", "decoder"):
        version = checkpoint["model"].get(f"{side}.dictionary_fingerprint.version")
        saved = {} if version is None else {"version": version}
        getattr(model, side).dictionary_fingerprint.load_state_dict(saved, strict=False)
    for name, weight in ours.items():
        weight.copy_(theirs[name])
    logger.info(f"the decoder and the embeddings start with the weights in {path}")


def _select_weights(weights: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights that are copied, by name."""
    return {k: v for k, v in weights if k.startswith(PARTS) and not k.endswith(BUFFERS)}


# Each of the following describes a difference between the checkpoint and the model, or returns
# None.


def _find_size_difference(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str | None:
    depth, our_depth = _count_decoder_layers(theirs), _count_decoder_layers(ours)
    if depth != our_depth:
        return f"the checkpoint has {depth} decoder layers, this model has {our_depth}"
    if unmatched := sorted(theirs.keys() ^ ours.keys()):
        name = unmatched[0]
        return f"only {'the checkpoint' if name in theirs else 'this model'} has {name}"
    for name, weight in ours.items():
        shape, our_shape = tuple(theirs[name].shape), tuple(weight.shape)
        if shape == our_shape:
            continue
        if name.endswith("embed_tokens.weight") and shape[1:] == our_shape[1:]:
            return (
                f"the dictionary of the checkpoint has {shape[0]} entries, that of this model "
                f"has {our_shape[0]}"
            )
        return f"{name} has shape {shape} in the checkpoint and {our_shape} in this model"
    return None


def _find_option_difference(theirs: Any, ours: Any) -> str | None:
    difference = option_difference(theirs, ours, DECODER_OPTIONS)
    if difference is None:
        return None
    option, value, our_value = difference
    return f"{option} is {value} in the checkpoint and {our_value} in this model"


def _find_sharing_difference(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str | None:
    first_name: dict[int, str] = {}
    for name, weight in ours.items():
        shared = first_name.setdefault(weight.data_ptr(), name)
        if not torch.equal(theirs[shared], theirs[name]):
            return f"{shared} and {name} are one table in this model and two in the checkpoint"
    return None


def _count_decoder_layers(weights: dict[str, Tensor]) -> int:
    return len({name.split(".")[2] for name in weights if name.startswith("decoder.layers.")})
