"""A state ``x[i][l]``, and the arithmetic that makes the inverse of Eq. 3 exact.

A state is carried from column to column in float64, its *exact* value. The level networks ``F`` do
not read it as it is: they read it *rounded* to 24 bits. README.md beside this file explains why.

The functions here are plain arithmetic on tensors. Their gradients are ordinary autograd's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Bits of a rounded state below the largest magnitude at its position: float32 holds them exactly.
ROUNDED_BITS = 24
# A state is moved towards its rounded value by this share of the distance.
GUARD = 1 / 8


class State(NamedTuple):
    """A state ``x[i][l]`` as columns hand it on.

    Attributes:
        exact: the state, of any shape, in the dtype `Precision.state`.
        channel_dim: its dimension of channels.
    """

    exact: Tensor
    channel_dim: int


class Precision(NamedTuple):
    """The dtypes of one forward pass.

    Attributes:
        network: what the level networks read; the dtype of the stem's output.
        state: what states are carried in.
    """

    network: torch.dtype
    state: torch.dtype

    @property
    def rounds(self) -> bool:
        """Whether networks read states rounded: where states are finer than what networks read."""
        return self.state == torch.float64 and self.network != torch.float64


def round_to_grid(x: Tensor, channel_dim: int) -> Tensor:
    """Round ``x``, float64, to multiples of ``2 ** (e - ROUNDED_BITS)``.

    ``2 ** e`` bounds the magnitude of the channels at one position. All channels of a position get
    the same absolute step. A step relative to each element would be too fine for small elements:
    their rounding error comes from the large terms that cancelled.
    """
    # amax and amin are vectorised; a norm or aminmax takes many times as long.
    peak = torch.maximum(x.amax(channel_dim, True), x.amin(channel_dim, True).neg_())
    # Adding 1.5 * 2**52 steps leaves a float64 no bits for anything smaller than a step.
    exponent = torch.frexp(peak).exponent + (52 - ROUNDED_BITS)
    shift = torch.ldexp(torch.full_like(peak, 1.5), exponent)
    return (x + shift).sub_(shift)


def read_state(state: State, precision: Precision) -> Tensor:
    """Return what a network reads of ``state``: the rounded value. Its gradient is 1."""
    x = state.exact
    if not precision.rounds:
        return x.to(precision.network)
    rounded = round_to_grid(x.detach(), state.channel_dim)
    if torch.is_grad_enabled() and x.requires_grad:
        # The difference is exact, and so is the sum; it carries the gradient in float64.
        rounded = rounded.sub_(x.detach()).add_(x)
    return rounded.to(precision.network)


def guard_state(x: Tensor, channel_dim: int) -> Tensor:
    """Move ``x`` off the edges of its rounding cell, towards its rounded value. The gradient is 1.

    Inverting a column gives back its states up to float64 rounding. Rounding hides such an error,
    except in elements that lie next to the edge of a rounding cell. So every element is moved
    towards the middle of its cell by the share `GUARD`: an element that is rebuilt a little off
    is then still in its cell, and the network reads the same bits as in the forward pass. The move
    is smaller than what the network can see, and `invert_state` takes it back.
    """
    to_rounded = round_to_grid(x.detach(), channel_dim).sub_(x.detach())
    return torch.add(x, to_rounded, alpha=GUARD)


def update_state(
    y: Tensor, scale: Tensor | None, previous: Tensor | None, precision: Precision, channel_dim: int
) -> Tensor:
    """Eq. 3, ``x[i][l] = y + gamma * x[i-1][l]``, guarded where networks read states rounded.

    Args:
        y: output of the network ``F``.
        scale: gamma, of a shape that broadcasts; ``None`` in the first column.
        previous: the exact state ``x[i-1][l]``; ``None`` in the first column.
        precision: of this forward pass.
        channel_dim: of ``y``.
    """
    x = y.to(precision.state)
    if previous is not None:
        scale = scale.to(precision.state)
        # In place where x is a copy: it saves a state at the peak.
        x = torch.addcmul(x, scale, previous) if x is y else x.addcmul_(scale, previous)
    return guard_state(x, channel_dim) if precision.rounds else x


def unguard_state(state: State, precision: Precision) -> Tensor:
    """Take `guard_state` back: move the exact state away from its rounded value."""
    x = state.exact
    if not precision.rounds:
        return x
    return torch.lerp(round_to_grid(x, state.channel_dim), x, 1 / (1 - GUARD))


def invert_update(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    """Eq. 3 solved for the previous state, ``x[i-1][l] = (x[i][l] - y) / gamma``.

    Args:
        x: the state ``x[i][l]`` without its guard (`unguard_state`).
        y: output of the network ``F``.
        scale: gamma, of a shape that broadcasts.
    """
    # Operands are cast first: torch is slow where their dtypes differ.
    return (x - y.to(x.dtype)).mul_(scale.to(x.dtype).reciprocal())


def differentiate_update(grad: Tensor, previous: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `update_state` with respect to ``previous`` and ``scale``.

    Args:
        grad: of the state ``x[i][l]``, in the dtype of states.
        previous: the exact state ``x[i-1][l]``.
        scale: gamma.
    """
    scale = scale.to(grad.dtype)
    return grad * scale, (grad * previous).sum_to_size(scale.shape)
