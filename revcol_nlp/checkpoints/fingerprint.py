"""A fingerprint of the dictionary, kept in the checkpoint.

A dictionary of the right size whose symbols are others, or stand in another order, fits every
weight of a model and makes each of them mean something else.
"""

import hashlib
import logging
from typing import Any, Protocol

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class HasSymbols(Protocol):
    """What is asked of a dictionary: its symbols, in the order of their indices."""

    symbols: list[str]


class DictionaryMismatchError(RuntimeError):
    """A checkpoint was trained with another dictionary than the one at hand."""


class DictionaryFingerprint(nn.Module):
    """Keeps a fingerprint of ``dictionary`` among a model's weights and compares it on loading.

    Loading a checkpoint without a fingerprint warns, since nothing can be compared.

    Args:
        dictionary: a fairseq ``Dictionary``, or anything else with ``symbols``.
        side: ``"source"`` or ``"target"``, for the messages.

    Raises:
        DictionaryMismatchError: from ``load_state_dict``, where the fingerprints differ.
    """

    version: Tensor

    def __init__(self, dictionary: HasSymbols, side: str) -> None:
        super().__init__()
        self.side = side
        # fairseq's moving average of the weights (--store-ema) multiplies every tensor by a
        # fraction, which integers refuse, except those with "version" in their name.
        self.register_buffer("version", fingerprint(dictionary.symbols))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "version")
        if saved is None:
            logger.warning(
                "the checkpoint keeps no fingerprint of its %s dictionary: whether it was trained "
                "with the dictionary in use cannot be checked",
                self.side,
            )
        else:
            self._compare(saved)
            super()._load_from_state_dict(state_dict, prefix, *rest)

    def _compare(self, saved: Tensor) -> None:
        saved_values, values = saved.tolist(), self.version.tolist()
        if saved_values == values:
            return
        saved_size, size = saved_values[0], values[0]
        difference = (
            f"its {size} entries are other symbols, or the same in another order"
            if saved_size == size
            else f"it had {saved_size} entries, this one has {size}"
        )
        raise DictionaryMismatchError(
            f"the checkpoint was trained with another dictionary ({self.side} side): {difference}; "
            "use the dict.*.txt of the data folder that it was trained with"
        )


def fingerprint(symbols: list[str]) -> Tensor:
    """The number of ``symbols`` and 93 bits of their SHA-256, as four int64 below 2**31.

    Averaging checkpoints adds such integers and divides the sum, which leaves them as they were;
    ``half()`` leaves integers alone.
    """
    digest = hashlib.sha256("\n".join(symbols).encode()).digest()
    words = (int.from_bytes(digest[i : i + 4], "big") >> 1 for i in (0, 4, 8))
    return torch.tensor([len(symbols), *words], dtype=torch.int64)
