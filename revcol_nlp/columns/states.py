"""A state ``x[i][l]``, and the arithmetic that makes the inverse of Eq. 3 exact.

A state is carried from column to column in float64, its *exact* value. The level networks ``F`` do
not read it as it is: they read it *rounded* to 24 bits. README.md beside this file explains why.

The functions here are plain arithmetic on tensors. Their gradients are ordinary autograd's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .precision import Precision

# Bits of a rounded state below the largest magnitude at its position: float32 holds them exactly.
ROUNDED_BITS = 24
# A state is moved towards its rounded value by this share of the distance.
GUARD = 1 / 8


class Grid:
    """The grid that a state is rounded to: at each position one step for all channels.

    The step is ``2 ** (e - ROUNDED_BITS)``, where ``2 ** e`` bounds the magnitude of the channels
    at the position. A step relative to each element would be too fine for small elements: their
    rounding error comes from the large terms that cancelled.

    Args:
        channel_dim: the state's dimension of channels.
        shift: ``1.5 * 2**52`` steps, of the state's shape with one channel; found from the state
            when it is first rounded, where it is not given.
    """

    __slots__ = ("channel_dim", "rounded", "shift")

    def __init__(self, channel_dim: int, shift: Tensor | None = None):
        self.channel_dim = channel_dim
        self.shift = shift
        self.rounded: Tensor | None = None  # what `read_state` returned, where it may keep it

    def round(self, x: Tensor) -> Tensor:
        """The state ``x``, float64, in whole steps."""
        if self.shift is None:
            self.shift = measure_shift(x, self.channel_dim)
        return round_by_shift(x, self.shift)


class State(NamedTuple):
    """A state ``x[i][l]`` as columns hand it on.

    Attributes:
        exact: the state, of any shape, in the dtype `Precision.state`.
        grid: what it is rounded to when a network reads it.
    """

    exact: Tensor
    grid: Grid


def measure_shift(x: Tensor, channel_dim: int) -> Tensor:
    """``1.5 * 2**52`` steps of the grid of ``x``.

    Added to a float64, it leaves no bits for anything smaller than a step.
    """
    # amax and amin are vectorised; a norm or aminmax takes many times as long.
    peak = torch.maximum(x.amax(channel_dim, True), x.amin(channel_dim, True).neg_())
    exponent = torch.frexp(peak).exponent + (52 - ROUNDED_BITS)
    return torch.ldexp(torch.full_like(peak, 1.5), exponent)


def round_by_shift(x: Tensor, shift: Tensor) -> Tensor:
    """``x`` rounded to whole steps."""
    return (x + shift).sub_(shift)


def read_state(state: State, precision: Precision, keep: bool = False) -> Tensor:
    """Return what a network reads of ``state``: the rounded value. Its gradient is 1.

    Args:
        keep: keep it for the next reader, outside of autograd's graphs.
    """
    x = state.exact
    if not precision.rounds:
        return x.to(precision.network)
    if keep:
        if state.grid.rounded is None:
            state.grid.rounded = state.grid.round(x.detach()).to(precision.network)
        return state.grid.rounded
    rounded = state.grid.round(x.detach())
    if torch.is_grad_enabled() and x.requires_grad:
        # The difference is exact, and so is the sum; it carries the gradient in float64.
        rounded = rounded.sub_(x.detach()).add_(x)
    return rounded.to(precision.network)


def update_state(
    y: Tensor, scale: Tensor | None, previous: Tensor | None, precision: Precision, channel_dim: int
) -> tuple[Tensor, Tensor | None]:
    """Eq. 3, ``x[i][l] = y + gamma * x[i-1][l]``, guarded where networks read states rounded.

    The guard: inverting a column gives back its states up to float64 rounding. Reading them
    rounded hides such an error, except in elements that lie next to the edge of a rounding cell.
    So every element is moved towards the middle of its cell, by the share `GUARD` of the distance.
    An element that is rebuilt a little off is then still in its cell, and the network reads the
    same bits as in the forward pass. The move is smaller than what the network can see. Its
    gradient is 1, and `unguard_state` takes it back.

    Args:
        y: output of the network ``F``.
        scale: gamma, of a shape that broadcasts; ``None`` in the first column.
        previous: the exact state ``x[i-1][l]``; ``None`` in the first column.
        precision: of this forward pass.
        channel_dim: of ``y``.

    Returns:
        the exact state, and the shift of its `Grid` where it is rounded.
    """
    x = y.to(precision.state)
    if previous is not None:
        scale = scale.to(precision.state)
        # In place where x is a copy: it saves a state at the peak.
        x = torch.addcmul(x, scale, previous) if x is y else x.addcmul_(scale, previous)
    if not precision.rounds:
        return x, None
    shift = measure_shift(x.detach(), channel_dim)
    to_rounded = round_by_shift(x.detach(), shift).sub_(x.detach())
    # The guard does not move an element past a power of two: the grid stays the same. (In place,
    # where x is a copy: large new tensors cost page faults.)
    if x is y:
        return torch.add(x, to_rounded, alpha=GUARD), shift
    return x.add_(to_rounded, alpha=GUARD), shift


def unguard_state(x: Tensor, shift: Tensor) -> Tensor:
    """Take the guard of `update_state` back: move ``x`` away from its rounded value."""
    return round_by_shift(x, shift).lerp_(x, 1 / (1 - GUARD))


def invert_update(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Eq. 3 solved for the previous state, ``x[i-1][l] = (x[i][l] - y) / gamma``.

    Args:
        x: the state ``x[i][l]`` without its guard (`unguard_state`); it is overwritten.
        y: output of the network ``F``.
        scale: gamma, of a shape that broadcasts.
    """
    # Operands are cast first: torch is slow where their dtypes differ.
    return x.sub_(y.to(x.dtype)).mul_(scale.to(x.dtype).reciprocal())


def differentiate_update(grad: Tensor, previous: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `update_state` with respect to ``previous`` and ``scale``.

    Args:
        grad: of the state ``x[i][l]``, in the dtype of states.
        previous: the exact state ``x[i-1][l]``.
        scale: gamma.
    """
    scale = scale.to(grad.dtype)
    return grad * scale, (grad * previous).sum_to_size(scale.shape)
