"""A fingerprint of the dictionary, kept in the checkpoint.

A dictionary of the same size with other symbols, or with the same symbols in another order, fits
all weights of a model, and the model then translates other words without an error.

The fingerprint is a buffer called ``version``, because fairseq's moving average of the weights
(``--store-ema``) multiplies every tensor by a fraction, which integers refuse, except tensors with
"version" in their name.
"""

import hashlib
import logging
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .errors import DictionaryMismatchError

logger = logging.getLogger(__name__)


class HasSymbols(Protocol):
    """A dictionary: it has its symbols in the order of their indices."""

    symbols: list[str]


class DictionaryFingerprint(nn.Module):
    """Keeps a fingerprint of ``dictionary`` among a model's weights and compares it on loading.

    Loading a checkpoint without a fingerprint logs a warning, since there is nothing to compare.

    Args:
        dictionary: a fairseq ``Dictionary``, or another object with ``symbols``.
        side: ``"source"`` or ``"target"``, for the messages.

    Raises:
        DictionaryMismatchError: from ``load_state_dict``, where the fingerprints differ.
    """

    version: Tensor

    def __init__(self, dictionary: HasSymbols, side: str) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("version", compute_fingerprint(dictionary.symbols))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        saved = state_dict.get(prefix + "version")
        if saved is None:
            logger.warning(
                "the checkpoint has no fingerprint of its %s dictionary, so it cannot be checked "
                "that it was trained with the dictionary in use",
                self.side,
            )
        # Each update of --store-ema loads this very tensor. Comparing would wait for the device.
        elif saved.data_ptr() != self.version.data_ptr():
            self._compare(saved)
        if saved is not None:
            super()._load_from_state_dict(state_dict, prefix, *rest)

    def _compare(self, saved: Tensor) -> None:
        saved_values, values = saved.tolist(), self.version.tolist()
        if saved_values == values:
            return
        saved_size, size = saved_values[0], values[0]
        difference = (
            f"its {size} entries are other symbols, or the same symbols in another order"
            if saved_size == size
            else f"it had {saved_size} entries, this one has {size}"
        )
        raise DictionaryMismatchError(
            f"the checkpoint was trained with another dictionary ({self.side} side): {difference}; "
            "use the dict.*.txt of the data folder that it was trained with"
        )


def compute_fingerprint(symbols: list[str]) -> Tensor:
    """Compute the fingerprint of a dictionary with these ``symbols``.

    Averaging checkpoints adds the integers and divides the sum, which gives the same integers;
    ``half()`` does not change integers.

    Returns:
        ``(4,)`` int64 below 2**31: the number of symbols and 93 bits of their SHA-256.
    """
    digest = hashlib.sha256("\n".join(symbols).encode()).digest()
    words = (int.from_bytes(digest[i : i + 4], "big") >> 1 for i in (0, 4, 8))
    return torch.tensor([len(symbols), *words], dtype=torch.int64)
