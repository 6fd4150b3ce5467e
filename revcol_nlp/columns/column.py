"""The column equation of *Reversible Column Networks* (Eq. 3), forward and inverse.

Nothing here knows of text or images, and nothing here plays tricks with autograd: ``reversible.py``
holds those. Notation as in the paper: column ``i``, level ``l``, and ``F[i][l]`` the level's
network (a fusion, then blocks), which may be any module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .compilation import get_compiled
from .states import InvertedState, State, invert_state, restore_state, update_state

GAMMA_INIT = 0.5
GAMMA_MIN = 1e-3

LevelKwargs = Mapping[str, Any]


class Level(nn.Module):
    """One level of one column: the network ``F`` and the channel-wise scale ``gamma``.

    Args:
        network: the paper's ``F``, called as ``network(below, above, **level_kwargs)``, where
            ``above`` is ``None`` if the level has no top-down input. It returns a tensor of the
            state's shape, which no other level needs to share.
        gamma_shape: shape of ``gamma``, broadcast against the state: ``(C,)`` for states of shape
            ``(..., C)``, ``(C, 1, 1)`` for ``(B, C, H, W)``.
        first_column: the first column has no previous one to scale, and so no ``gamma``.
    """

    def __init__(
        self, network: nn.Module, gamma_shape: Sequence[int], *, first_column: bool = False
    ):
        super().__init__()
        self.network = network
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
        run = get_compiled(update_state, self.compile_options)
        return run(y, self.scale(), last, state_dtype, self.channel_dim, carried)

    def invert(self, state: State, y: Tensor, grad: Tensor | None) -> InvertedState:
        """`update` undone: ``x[i-1][l]`` from its result and the same ``y``, and the gradients."""
        run = get_compiled(invert_state, self.compile_options)
        return run(state, y, self.scale(), grad, self.channel_dim)

    def compile(self, **options: Any) -> None:
        """Compile ``F`` and the updates in place, by ``torch.compile(..., **options)``."""
        self.network.compile(**options)
        self.compile_options = options


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
            y = level.network(below, above, **level_kwargs[index])
            states.append(level.update(y, last, state_dtype, carried=not is_last))
            del y
        return states

    def states(self, exact: Sequence[Tensor]) -> list[State]:
        """The states with the exact values ``exact``, which `forward` made before."""
        pairs = zip(exact, self.levels, strict=True)
        return [restore_state(value, level.channel_dim) for value, level in pairs]


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
