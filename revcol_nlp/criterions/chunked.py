"""A function of very many rows, in chunks, of which only one at a time is in memory.

It is made for a projection to a large vocabulary and the loss behind it: no more logits are held,
in either pass, than those of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def map_chunks(function: Callable[..., Result], chunk_size: int, *tensors: Tensor) -> list[Result]:
    """``function`` of every ``chunk_size`` rows of ``tensors``, with ordinary autograd's gradients.

    What ``function`` keeps for the backward pass is computed a second time there, chunk by chunk,
    but for the last chunk: the backward pass begins with it, so keeping it costs no peak.

    Args:
        function: takes one chunk of each tensor; whatever else it reads (weights) is not split.
        chunk_size: rows in a chunk; the last may have fewer.
        tensors: each of shape ``(N, ...)``, with the same ``N``.

    Returns:
        What ``function`` returned for each chunk, in order.
    """
    *chunks, last = zip(*(tensor.split(chunk_size) for tensor in tensors), strict=True)
    return [
        *(checkpoint(function, *chunk, use_reentrant=False) for chunk in chunks),
        function(*last),
    ]
