"""A column's states: how they are split, so that the inverse of Eq. 3 is exact.

A state has two values. The *exact* one is carried from column to column in float64. The *rounded*
one is what the level networks ``F`` read. README.md beside this file explains why both are needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Bits of a rounded state below the largest magnitude at its position: float32 holds them exactly.
ROUNDED_BITS = 24
# The share of its distance to the rounded value by which a state is moved towards it.
GUARD = 1 / 8


class State(NamedTuple):
    """A column state ``x[i][l]``: the exact value is carried on, ``F`` reads the rounded one."""

    exact: Tensor | None
    rounded: Tensor


class InvertedState(NamedTuple):
    """The previous column's state, its gradient, and gamma's, where there are any."""

    state: State
    grad: Tensor | None
    gamma_grad: Tensor | None


def combine(
    y: Tensor, scale: Tensor | None, last: Tensor | None, state_dtype: torch.dtype
) -> Tensor:
    """``y + gamma * last``; in the first column there is no ``last``."""
    x = y.to(state_dtype)
    if last is None:
        return x
    scale = scale.to(state_dtype)
    # In place where x is a copy: the peak of the last column's forward pass is here.
    return torch.addcmul(x, scale, last) if x is y else x.addcmul_(scale, last)


def update_state(
    y: Tensor,
    scale: Tensor | None,
    last: Tensor | None,
    state_dtype: torch.dtype,
    channel_dim: int,
    carried: bool = True,
) -> State:
    """``y + gamma * last``, split by `split_state`."""
    return split_state(combine(y, scale, last, state_dtype), channel_dim, carried)


def invert_state(
    state: State, y: Tensor, scale: Tensor, grad: Tensor | None, channel_dim: int
) -> InvertedState:
    """The previous column's state ``(x - y) / gamma``, and what ``grad``, that of ``x``, is to it
    and to gamma."""
    # Operands are cast first: torch is slow where their dtypes differ.
    x, y, scale = (value.to(state.exact.dtype) for value in (state.rounded, y, scale))
    x = torch.lerp(x, state.exact, 1 / (1 - GUARD))
    previous = restore_state(x.sub_(y).mul_(scale.reciprocal()), channel_dim)
    if grad is None:
        return InvertedState(previous, None, None)
    return InvertedState(previous, grad * scale, (grad * previous.exact).sum_to_size(scale.shape))


def restore_state(exact: Tensor, channel_dim: int) -> State:
    """Rebuild a `State` from its exact value, which `split_state` made; the gradient is 1."""
    if exact.dtype != torch.float64:
        return State(exact, exact)
    value = round_to_grid(exact.detach(), channel_dim)
    if not exact.requires_grad:
        return State(exact, value.float())
    return State(exact, value.sub_(exact.detach()).add_(exact))


def split_state(x: Tensor, channel_dim: int, carried: bool = True) -> State:
    """Split ``x`` into what the next column carries on and what ``F`` reads.

    Inverting a column gives back its states only up to float64 rounding. If ``F`` read them as
    they are, the difference would grow some thirtyfold per column. So ``F`` reads a coarser,
    rounded value, the same for all states of one rounding cell, and the exact state is moved off
    the edges of its cell, towards the rounded value, by the share ``GUARD``: a state that is
    rebuilt a little off is then still in its cell, and ``F`` sees bit for bit what it saw before.
    The move is below the resolution of ``F``, has gradient 1, and `invert_state` undoes it.

    States that are no finer than ``F``'s inputs (not float64) are passed through. Where no column
    follows (not ``carried``) there is no exact state.
    """
    if x.dtype != torch.float64:
        return State(x, x)
    value = round_to_grid(x.detach(), channel_dim)
    if not x.requires_grad:
        return State(torch.lerp(x, value, GUARD) if carried else None, value.float())
    # With gradient it stays float64, for the gradients of its readers to add up in float64.
    to_nearest = value.sub_(x.detach())
    exact = torch.add(x, to_nearest, alpha=GUARD) if carried else None
    return State(exact, to_nearest.add_(x))


def round_to_grid(x: Tensor, channel_dim: int) -> Tensor:
    """``x`` rounded to multiples of ``2 ** (e - ROUNDED_BITS)``, ``2 ** e`` bounding its channels.

    One absolute step for all channels of a position: a step relative to each element would be
    too fine for the small ones, whose error comes from the large terms that cancelled.
    """
    # Many times as fast as a norm or aminmax, which torch does not vectorise.
    peak = torch.maximum(x.amax(channel_dim, True), x.amin(channel_dim, True).neg_())
    # Adding 1.5 * 2**52 steps leaves a float64 no bits for anything smaller than a step.
    exponent = torch.frexp(peak).exponent + (52 - ROUNDED_BITS)
    shift = torch.ldexp(torch.full_like(peak, 1.5), exponent)
    return (x + shift).sub_(shift)
