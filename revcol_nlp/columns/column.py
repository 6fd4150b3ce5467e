"""A column: Eq. 3 of *Reversible Column Networks*, level by level, and what each level reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .level import Level, LevelInput, LevelKwargs
from .precision import Precision
from .states import Grid, State

if TYPE_CHECKING:
    from .run import ReversibleRun


class Column(nn.Module):
    """The levels of one column, bottom to top.

    Args:
        levels: at least one `Level`.

    Raises:
        TypeError: if one of them is no `Level`.
    """

    def __init__(self, levels: Iterable[Level]):
        super().__init__()
        self.levels = nn.ModuleList(levels)
        for index, level in enumerate(self.levels):
            if not isinstance(level, Level):
                raise TypeError(
                    f"level {index} of a Column is a {type(level).__name__}: wrap its network, "
                    "Level(network, num_channels)"
                )
        if not len(self.levels):
            raise ValueError("a Column needs at least 1 level, got 0")

    def level_inputs(
        self, index: int, stem_output: Tensor, states: Sequence[State | None]
    ) -> tuple[LevelInput, ...]:
        """What the network of level ``index`` reads; a kind of column may read something else.

        Here, as in the paper's Eq. 3, it is the level below in the same column (or the stem's
        output) and the level above in the previous column::

            x[i][l-1], x[i-1][l+1]

        The paper's multi-level reversible unit (Eq. 2) lets a level read any of the states that
        were made after the one that it replaces. An override returns any of ``states`` but
        ``states[index]``, ``stem_output`` or ``None``, as they are, and decides by ``index`` and
        by which states are ``None`` alone: the backward pass calls it again.

        Args:
            index: of the level, from the bottom.
            stem_output: output of the stem.
            states: one per level: up to ``index - 1`` those of this column, from ``index`` on
                those of the previous column (all ``None`` in the first column).
        """
        below = states[index - 1] if index else stem_output
        above = states[index + 1] if index + 1 < len(states) else None
        return below, above

    def forward(
        self,
        stem_output: Tensor,
        states: Sequence[State | None],
        level_kwargs: Sequence[LevelKwargs],
        precision: Precision,
        run: ReversibleRun | None = None,
    ) -> list[State]:
        """Paper Eq. 3, level by level::

            x[i][l] = F[i][l]( x[i][l-1], x[i-1][l+1] ) + gamma[i][l] * x[i-1][l]

        where ``x[i][-1]`` is the stem's output. The top level and the first column have no
        ``x[i-1][l+1]``; the first column has no ``x[i-1][l]`` either.

        Args:
            stem_output: output of the stem, in the dtype ``precision.network``.
            states: the previous column's, one per level; ``None`` each in the first column.
            level_kwargs: keyword arguments of each level's network, e.g. a key-padding mask.
            precision: of this forward pass.
            run: the forward pass of reversible levels, of which this column is a part.

        Returns:
            this column's states.
        """
        states = list(states)
        for index, level in enumerate(self.levels):
            check_state_dtype(states[index], precision)
            inputs = self.checked_inputs(index, stem_output, states)
            run_level = run and run.prepare(self, index, states, inputs)
            grid = Grid(level.channel_dim)
            exact = level(inputs, states[index], level_kwargs[index], precision, grid, run_level)
            if run is not None:
                run.check_state(exact)
            # The list holds x[i][l] from here on, and x[i-1][l], which nobody reads any more, goes.
            states[index] = State(exact, grid)
        return states

    def checked_inputs(
        self, index: int, stem_output: Tensor, states: Sequence[State | None]
    ) -> tuple[LevelInput, ...]:
        """`level_inputs`, which may have been overridden.

        Raises:
            ValueError: if it returns something that cannot be given back in the backward pass.
        """
        allowed = [None, stem_output, *states[:index], *states[index + 1 :]]
        inputs = tuple(self.level_inputs(index, stem_output, states))
        if torch.compiler.is_compiling():
            return inputs
        if not all(any(x is y for y in allowed) for x in inputs):
            raise ValueError(
                f"{type(self).__name__}.level_inputs may return the stem's output, None, and "
                f"states of other levels, as they are; for level {index} it returned something else"
            )
        return inputs


def check_state_dtype(state: State | None, precision: Precision) -> None:
    """Raises TypeError where the previous column's state came in another dtype."""
    if state is not None and state.exact.dtype != precision.state:
        raise TypeError(
            f"a column got states in {state.exact.dtype} in place of {precision.state}, in which "
            "they cannot be inverted: a hook cast them, as FSDP2's do with "
            "MixedPrecisionPolicy(cast_forward_inputs=True); set it to False, and output_dtype to "
            "None, and compute under torch.autocast"
        )
