"""The buffers of a network: give them their earlier values while the network runs again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn


class BufferCopy(NamedTuple):
    """A buffer as it was: its module and name, the tensor, its version, and its values."""

    owner: nn.Module
    name: str
    tensor: Tensor
    version: int
    values: Tensor

    def has_changed(self) -> bool:
        now = getattr(self.owner, self.name)
        return now is not self.tensor or now._version != self.version


def copy_buffers(network: nn.Module) -> list[BufferCopy]:
    """Copies of all buffers of ``network``."""
    return [
        BufferCopy(owner, name, buffer, buffer._version, buffer.clone())
        for owner in network.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]


def select_changed(copies: Sequence[BufferCopy]) -> list[BufferCopy]:
    """The copies that are needed to give the network its earlier buffers.

    Of a module, these are all or none: torch's batch norm changes its running statistics without a
    trace, and counts the batches with one.
    """
    owners = {copy.owner for copy in copies if copy.has_changed()}
    return [copy for copy in copies if copy.owner in owners]


@contextmanager
def buffers_restored(copies: Sequence[BufferCopy]) -> Iterator[None]:
    """Inside, buffers have the values of ``copies``; what the network writes there is lost."""
    now = [getattr(copy.owner, copy.name) for copy in copies]
    for copy in copies:
        setattr(copy.owner, copy.name, copy.values.clone())
    try:
        yield
    finally:
        for copy, tensor in zip(copies, now, strict=True):
            setattr(copy.owner, copy.name, tensor)
