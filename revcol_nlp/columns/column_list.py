"""A list of columns, in which one column may stand in several places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import nn

from .column import Column
from .level import LevelKwargs

# Keyword arguments for each level, the same in every column, or such a list for each column.
AllLevelKwargs = Sequence[LevelKwargs] | Sequence[Sequence[LevelKwargs]]


class ColumnList(nn.Module):
    """Columns in their order, in which one column may stand several times.

    It reads as a list. A column that stands several times is one module: ``state_dict`` holds its
    weights once, under the number of its first appearance among the different columns. So
    ``[first, step, step]`` and ``[first, step, step, step]`` have the same weights, ``0.`` and
    ``1.``, and each loads what the other saved.
    """

    def __init__(self, columns: Iterable[Column]):
        super().__init__()
        self.order: list[int] = []
        different: list[Column] = []
        for column in columns:
            numbers = [n for n, other in enumerate(different) if other is column]
            if not numbers:
                numbers = [len(different)]
                different.append(column)
                self.add_module(str(numbers[0]), column)
            self.order.append(numbers[0])

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Column]:
        return (self.get_submodule(str(number)) for number in self.order)

    def __getitem__(self, index: int | slice) -> Column | ColumnList:
        if isinstance(index, slice):
            return ColumnList(list(self)[index])
        return self.get_submodule(str(self.order[index]))


def check_columns(columns: Sequence[Column]) -> None:
    """Refuse what cannot be a stack of columns.

    Raises:
        TypeError: if one of ``columns`` is no `Column`.
        ValueError: if there is none, or columns differ in their levels.
    """
    if not columns:
        raise ValueError("a RevCol needs at least 1 column, got 0")
    for index, column in enumerate(columns):
        if not isinstance(column, Column):
            raise TypeError(
                f"column {index} of a RevCol is a {type(column).__name__}: make it a "
                "Column([Level(network, num_channels), ...])"
            )
        shape = [(level.num_channels, level.channel_dim) for level in column.levels]
        first = [(level.num_channels, level.channel_dim) for level in columns[0].levels]
        if len(shape) != len(first):
            raise ValueError(
                f"all columns need the same number of levels: column 0 has {len(first)} and column "
                f"{index} has {len(shape)}"
            )
        if shape != first:
            raise ValueError(
                f"the levels of all columns need the same channels: column 0 has {first} and "
                f"column {index} has {shape} (num_channels, channel_dim)"
            )


def spread_level_kwargs(
    level_kwargs: AllLevelKwargs | None, num_columns: int, num_levels: int
) -> Sequence[Sequence[LevelKwargs]]:
    """Keyword arguments for each level of each column.

    Raises:
        ValueError: if there are not as many as levels, or as columns.
    """
    if level_kwargs is None:
        level_kwargs = [{}] * num_levels
    if all(isinstance(kwargs, Mapping) for kwargs in level_kwargs):
        level_kwargs = [level_kwargs] * num_columns
    if len(level_kwargs) != num_columns:
        raise ValueError(
            f"level_kwargs holds lists for {len(level_kwargs)} of {num_columns} columns"
        )
    for kwargs in level_kwargs:
        if len(kwargs) != num_levels:
            raise ValueError(f"level_kwargs holds {len(kwargs)} mappings for {num_levels} levels")
    return level_kwargs
