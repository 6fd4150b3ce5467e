"""The stack of columns, with reversible training behind one switch."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .column import Column
from .column_list import AllLevelKwargs, ColumnList, check_columns, spread_level_kwargs
from .keyframes import GrowthReader, measure_growth, plan_keyframes
from .level import LevelKwargs
from .precision import Precision, can_rebuild, choose_precision
from .run import ReversibleRun
from .states import State, read_state

logger = logging.getLogger(__name__)

KEEP_COLUMNS = 1
KEYFRAME_BUDGET = 1e6

# A column and a level of it, both from 0; negative ones count from the end.
Place = tuple[int, int]


class RevCol(nn.Module):
    """Reversible multi-column network (paper section 2.2): stem output in, level states out.

    In training the states are float64 and networks read them rounded (`states.py`), with
    ``reversible`` on or off: the two give the same gradients, and share one ``state_dict``. In
    evaluation nothing is rebuilt, and states have the stem's dtype, but at least float32.

    Args:
        columns: from first to last, each a `Column` of as many levels as the others. One column
            may stand in several places. A column that stands first and nowhere else loses its
            ``gamma``, which would never get a gradient.
        reversible: rebuild activations in the backward pass instead of keeping them.
        keep_columns: how many of the last columns run under ordinary autograd all the same, to
            trade memory for time. With 0, one level's activations are held at the peak in place
            of a column's.
        keyframe_budget: how far rounding errors may grow before a column's states are kept
            exactly; see `plan_keyframes`. Up to 1e6 is safe.
        state_dtype: what states are carried in while training. float32 takes half the memory and
            no float64 arithmetic, and **gradients are then no longer exact**.

    Raises:
        TypeError: if one of ``columns`` is no `Column`.
        ValueError: if an argument is out of its range, or columns differ in their levels.
    """

    def __init__(
        self,
        columns: Iterable[Column],
        *,
        reversible: bool = True,
        keep_columns: int = KEEP_COLUMNS,
        keyframe_budget: float = KEYFRAME_BUDGET,
        state_dtype: torch.dtype = torch.float64,
    ):
        super().__init__()
        columns = list(columns)
        check_columns(columns)
        if not 0 <= keep_columns <= len(columns):
            raise ValueError(
                f"keep_columns must be between 0 and the number of columns, {len(columns)}; "
                f"got {keep_columns}"
            )
        if state_dtype not in (torch.float64, torch.float32):
            raise ValueError(f"state_dtype must be torch.float64 or float32, not {state_dtype}")
        # Without exact states there is nothing that a budget could keep exact.
        most = KEYFRAME_BUDGET if state_dtype == torch.float64 else math.inf
        if not 1 <= keyframe_budget <= most:
            raise ValueError(
                f"keyframe_budget must be between 1 and {KEYFRAME_BUDGET:g}, above which gradients "
                f"are no longer exact; got {keyframe_budget:g}"
            )
        self.columns = ColumnList(columns)
        if not any(column is columns[0] for column in columns[1:]):
            for level in columns[0].levels:
                level.gamma = None
        self.reversible = reversible
        self.keep_columns = keep_columns
        self.keyframe_budget = keyframe_budget
        self.state_dtype = state_dtype
        self._growth = GrowthReader()
        self._logs_next_step = True
        self.register_load_state_dict_post_hook(_replan_after_loading)

    def extra_repr(self) -> str:
        return f"reversible={self.reversible}, keep_columns={self.keep_columns}"

    @property
    def num_levels(self) -> int:
        return len(self.columns[0].levels)

    def compile_levels(self, **options: Any) -> None:
        """Compile every level in place, by ``torch.compile(..., **options)``: its network, and the
        arithmetic of its state, in both passes."""
        for column in self.columns:
            for level in column.levels:
                level.compile_parts(**options)

    def forward(
        self, stem_output: Tensor, level_kwargs: AllLevelKwargs | None = None
    ) -> list[Tensor]:
        """The last column's states, bottom to top, in the stem's dtype.

        Args:
            stem_output: output of the stem, which every column starts from.
            level_kwargs: keyword arguments of the levels' networks, e.g. ``key_padding_mask``:
                one mapping per level, the same in every column, or for each column such a list.
                Tensors in it may need gradients.
        """
        last = len(self.columns) - 1
        places = [(last, level) for level in range(self.num_levels)]
        return list(self.forward_columns(stem_output, places, level_kwargs).values())

    def forward_columns(
        self,
        stem_output: Tensor,
        places: Iterable[Place],
        level_kwargs: AllLevelKwargs | None = None,
    ) -> dict[Place, Tensor]:
        """The states at ``places``, each in the stem's dtype.

        In training nothing is held for them but what is returned. Columns behind the last of
        ``places`` do not run. What comes back has gradients whether or not a loss reads it all.

        Args:
            stem_output: as in `forward`.
            places: pairs of a column and a level.
            level_kwargs: as in `forward`.

        Raises:
            ValueError: if there is no such place.
        """
        wanted = {place: self._find(place) for place in places}
        if not wanted:
            raise ValueError("places is empty: name at least one (column, level)")
        kwargs = spread_level_kwargs(level_kwargs, len(self.columns), self.num_levels)
        trains = self.training and torch.is_grad_enabled()
        precision = choose_precision(stem_output, self.state_dtype if trains else torch.float32)
        # The first columns are rebuilt; from ``kept`` on, autograd keeps what it needs.
        count = 1 + max(column for column, _ in wanted.values())
        kept = 0
        if self.reversible and trains and can_rebuild(stem_output):
            kept = max(0, count - self.keep_columns)
        run = self._run_columns if kept == 0 else self._run_uncompiled
        found = run(stem_output, count, kept, kwargs, precision, set(wanted.values()))
        return {place: found[where] for place, where in wanted.items()}

    def _run_columns(
        self,
        stem_output: Tensor,
        count: int,
        kept: int,
        kwargs: Sequence[Sequence[LevelKwargs]],
        precision: Precision,
        wanted: set[Place],
    ) -> dict[Place, Tensor]:
        """Run the columns ``0 .. count - 1``, of which those from ``kept`` on are not rebuilt."""
        run = ReversibleRun(stem_output, precision) if kept else None
        keyframes = self._plan(kept) if kept else set()
        held = stem_output.nbytes if kept else 0
        states: list[State | None] = [None] * self.num_levels
        found: dict[Place, Tensor] = {}
        for index in range(count):
            if index == kept and run is not None:
                # Whatever is read from here on leads back to the last rebuilt level.
                found = {place: run.tie(state) for place, state in found.items()}
                states = [State(run.tie(x.exact), x.grid) for x in states]
                run = None
            if run is not None:
                run.keeps_states = index in keyframes
            states = self.columns[index](stem_output, states, kwargs[index], precision, run)
            if run is not None:
                run.finish_column(states)
            if run is not None and index in keyframes:
                held += sum(state.exact.nbytes for state in states)
            for place in wanted:
                if place[0] == index:
                    found[place] = read_state(states[place[1]], precision)
        if run is not None:
            found = {place: run.tie(state) for place, state in found.items()}
        if kept and self._logs_next_step:
            self._logs_next_step = False
            logger.info(
                f"{kept} of {count} columns are rebuilt in the backward pass, from "
                f"{held / 2**20:.1f} MiB: a stem output of {tuple(stem_output.shape)}, and the "
                f"states of column {', '.join(map(str, sorted(keyframes)))}"
            )
        return found

    def _run_uncompiled(self, *args: Any) -> dict[Place, Tensor]:
        """`_run_columns`, which torch.compile of a model leaves as it is; see `compile_levels`."""
        if not torch.compiler.is_compiling():
            return self._run_columns(*args)
        # Not as a decorator: it imports the compiler, which takes a second.
        return torch.compiler.disable(self._run_columns)(*args)

    def train(self, mode: bool = True) -> RevCol:
        """Switch to training, or to evaluation. The next step in training is logged."""
        self._logs_next_step |= mode and not self.training
        return super().train(mode)

    def keyframes(self) -> list[int]:
        """The columns whose states a training step keeps now, the last one rebuilt among them.

        They move with gamma. Empty where no column is rebuilt.
        """
        kept = len(self.columns) - self.keep_columns if self.reversible else 0
        if kept < 2:
            return list(range(kept))
        growth = measure_growth(list(self.columns)[:kept]).detach().cpu()
        return sorted(plan_keyframes(growth, self.keyframe_budget))

    def replan_keyframes(self) -> None:
        """Read gamma off its device at the next forward pass; call it after setting gamma by hand
        on a device other than the CPU. Loading a ``state_dict`` does so."""
        self._growth.forget()

    @torch.no_grad()
    def _plan(self, count: int) -> set[int]:
        if count == 1:
            return {0}
        growth = self._growth.read(measure_growth(list(self.columns)[:count]))
        return plan_keyframes(growth, self.keyframe_budget)

    def _find(self, place: Place) -> Place:
        try:
            column, level = place
            return range(len(self.columns))[column], range(self.num_levels)[level]
        except (TypeError, ValueError, IndexError):
            raise ValueError(
                f"no place {place!r}: a pair names one of {len(self.columns)} columns and one of "
                f"{self.num_levels} levels"
            ) from None


def _replan_after_loading(model: RevCol, _: Any) -> None:
    model.replan_keyframes()
