"""The column equation of *Reversible Column Networks* (Eq. 3), forward and inverse.

Nothing here knows of text or images, and nothing here plays tricks with autograd: ``reversible.py``
holds those. Notation as in the paper: column ``i``, level ``l``, and ``F[i][l]`` the level's
network (a fusion, then blocks), which may be any module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

GAMMA_INIT = 0.5
GAMMA_MIN = 1e-3

# Bits of a rounded state below the largest magnitude at its position: float32 holds them exactly.
ROUNDED_BITS = 24
# The share of its distance to the rounded value by which a state is moved towards it.
GUARD = 1 / 8

LevelKwargs = Mapping[str, Any]


class State(NamedTuple):
    """A column state ``x[i][l]``: the exact value is carried on, ``F`` reads the rounded one."""

    exact: Tensor | None
    rounded: Tensor


class Inverted(NamedTuple):
    """The previous column's state, its gradient, and gamma's, where there are any."""

    state: State
    grad: Tensor | None
    gamma_grad: Tensor | None


class Level(nn.Module):
    """One level of one column: the network ``F`` and the channel-wise scale ``gamma``.

    Args:
        residual: the paper's ``F``, called as ``residual(below, above, **level_kwargs)``, where
            ``above`` is ``None`` if the level has no top-down input. It returns a tensor of the
            state's shape, which no other level needs to share.
        gamma_shape: shape of ``gamma``, broadcast against the state: ``(C,)`` for states of shape
            ``(..., C)``, ``(C, 1, 1)`` for ``(B, C, H, W)``.
        first_column: the first column has no previous one to scale, and so no ``gamma``.
    """

    def __init__(
        self, residual: nn.Module, gamma_shape: Sequence[int], *, first_column: bool = False
    ):
        super().__init__()
        self.residual = residual
        self.channel_dim = -len(gamma_shape)
        self.compile_options: dict[str, Any] | None = None
        if first_column:
            self.register_parameter("gamma", None)
        else:
            self.gamma = nn.Parameter(torch.full(tuple(gamma_shape), GAMMA_INIT))

    def scale(self) -> Tensor | None:
        """``gamma`` with ``|gamma| >= 1e-3``, its sign kept (paper section 2.2.2).

        The bound acts where gamma is read and passes gradients straight through, so that a gamma
        that reached the bound can leave it again.
        """
        if self.gamma is None:
            return None
        raw = self.gamma.detach()
        bounded = torch.where(raw < 0, raw.clamp(max=-GAMMA_MIN), raw.clamp(min=GAMMA_MIN))
        return self.gamma + (bounded - raw)

    def update(
        self, y: Tensor, last: Tensor | None, state_dtype: torch.dtype, carried: bool = True
    ) -> State:
        """``x[i][l]`` from ``y``, what ``F`` returned, and ``x[i-1][l]``, the exact ``last``."""
        run = _compiled(updated, self.compile_options)
        return run(y, self.scale(), last, state_dtype, self.channel_dim, carried)

    def invert(self, state: State, y: Tensor, grad: Tensor | None) -> Inverted:
        """`update` undone: ``x[i-1][l]`` from its result and the same ``y``, and the gradients."""
        run = _compiled(inverted, self.compile_options)
        return run(state, y, self.scale(), grad, self.channel_dim)

    def compile(self, **options: Any) -> None:
        """Compile ``F`` and the updates in place, by ``torch.compile(..., **options)``."""
        self.residual.compile(**options)
        self.compile_options = options


def _compiled(function: Callable[..., Any], options: dict[str, Any] | None) -> Callable[..., Any]:
    if options is None:
        return function
    # One for all levels, which share its graphs, and none of their attributes: a module that
    # holds a compiled function cannot be pickled.
    key = function, repr(options)
    if key not in _COMPILED:
        _COMPILED[key] = torch.compile(function, **options)
    return _COMPILED[key]


_COMPILED: dict[tuple[Callable[..., Any], str], Callable[..., Any]] = {}


class Column(nn.Module):
    """The levels of one column, bottom to top."""

    def __init__(self, levels: Iterable[Level]):
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(
        self,
        stem: Tensor,
        previous: Sequence[State] | None,
        level_kwargs: Sequence[LevelKwargs],
        state_dtype: torch.dtype,
        run: Callable[..., Any] | None = None,
        is_last: bool = False,
    ) -> list[State]:
        """Paper Eq. 3, under ordinary autograd::

            x[i][l] = F[i][l]( x[i][l-1], x[i-1][l+1] ) + gamma[i][l] * x[i-1][l]

        where ``x[i][-1]`` is the stem, and neither the top level nor the first column has an
        ``x[i-1][l+1]``.

        Args:
            stem: output of the stem, in the dtype that ``F`` takes.
            previous: the previous column's states, one per level; ``None`` in the first column.
            level_kwargs: what each level's ``F`` gets besides, e.g. a key-padding mask.
            state_dtype: dtype of the exact states.
            run: called as ``run(column, stem, previous)`` in the place of all this, by
                ``reversible.py``.
            is_last: no column follows, so exact states are not kept.
        """
        if run is not None:
            return run(self, stem, previous)
        check_state_dtype(previous[0].exact if previous else None, state_dtype)
        states: list[State] = []
        for index, level in enumerate(self.levels):
            below, above = level_inputs(index, stem, states, previous)
            last = None if previous is None else previous[index].exact
            y = level.residual(below, above, **level_kwargs[index])
            states.append(level.update(y, last, state_dtype, carried=not is_last))
            del y
        return states

    def states(self, exact: Sequence[Tensor]) -> list[State]:
        """The states with the exact values ``exact``, which `forward` made before."""
        pairs = zip(exact, self.levels, strict=True)
        return [rounded(value, level.channel_dim) for value, level in pairs]


def check_state_dtype(exact: Tensor | None, state_dtype: torch.dtype) -> None:
    """Raises TypeError where the previous column's states came in another dtype."""
    if exact is not None and exact.dtype != state_dtype:
        raise TypeError(
            f"a column got states in {exact.dtype} in place of {state_dtype}, in which they cannot "
            "be inverted: a hook cast them, as FSDP2's do with "
            "MixedPrecisionPolicy(cast_forward_inputs=True); set it to False, and output_dtype to "
            "None, and compute under torch.autocast"
        )


def level_inputs(
    index: int, stem: Tensor, states: Sequence[State], previous: Sequence[State | None] | None
) -> tuple[Tensor, Tensor | None]:
    """``x[i][l-1]`` and ``x[i-1][l+1]`` of level ``index``, in the dtype that ``F`` takes."""
    # The stem as a view: a column's gradients for it add up by themselves, as in reversible.py.
    below = states[index - 1].rounded.to(stem.dtype) if index else stem.view_as(stem)
    if previous is None or index + 1 == len(previous):
        return below, None
    return below, previous[index + 1].rounded.to(stem.dtype)


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


def updated(
    y: Tensor,
    scale: Tensor | None,
    last: Tensor | None,
    state_dtype: torch.dtype,
    channel_dim: int,
    carried: bool = True,
) -> State:
    """``y + gamma * last``, split by `guarded`."""
    return guarded(combine(y, scale, last, state_dtype), channel_dim, carried)


def inverted(
    state: State, y: Tensor, scale: Tensor, grad: Tensor | None, channel_dim: int
) -> Inverted:
    """The previous column's state ``(x - y) / gamma``, and what ``grad``, that of ``x``, is to it
    and to gamma."""
    # Operands are cast first: torch is slow where their dtypes differ.
    x, y, scale = (value.to(state.exact.dtype) for value in (state.rounded, y, scale))
    x = torch.lerp(x, state.exact, 1 / (1 - GUARD))
    previous = rounded(x.sub_(y).mul_(scale.reciprocal()), channel_dim)
    if grad is None:
        return Inverted(previous, None, None)
    return Inverted(previous, grad * scale, (grad * previous.exact).sum_to_size(scale.shape))


def rounded(exact: Tensor, channel_dim: int) -> State:
    """The state whose exact value came out of `guarded` before; its gradient passes straight."""
    if exact.dtype != torch.float64:
        return State(exact, exact)
    value = nearest(exact.detach(), channel_dim)
    if not exact.requires_grad:
        return State(exact, value.float())
    return State(exact, value.sub_(exact.detach()).add_(exact))


def guarded(x: Tensor, channel_dim: int, carried: bool = True) -> State:
    """Split ``x`` into what the next column carries on and what ``F`` reads.

    Inverting a column gives back its states only up to float64 rounding. If ``F`` read them as
    they are, the difference would grow some thirtyfold per column. So ``F`` reads a coarser,
    rounded value, the same for all states of one rounding cell, and the exact state is moved off
    the edges of its cell, towards the rounded value, by the share ``GUARD``: a state that is
    rebuilt a little off is then still in its cell, and ``F`` sees bit for bit what it saw before.
    The move is below the resolution of ``F``, has gradient 1, and `inverted` undoes it.

    States that are no finer than ``F``'s inputs (not float64) are passed through. Where no column
    follows (not ``carried``) there is no exact state.
    """
    if x.dtype != torch.float64:
        return State(x, x)
    value = nearest(x.detach(), channel_dim)
    if not x.requires_grad:
        return State(torch.lerp(x, value, GUARD) if carried else None, value.float())
    # With gradient it stays float64, for the gradients of its readers to add up in float64.
    to_nearest = value.sub_(x.detach())
    exact = torch.add(x, to_nearest, alpha=GUARD) if carried else None
    return State(exact, to_nearest.add_(x))


def nearest(x: Tensor, channel_dim: int) -> Tensor:
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
