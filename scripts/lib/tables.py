"""Format tables that can be read on a terminal and pasted into a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def format_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table whose columns line up on a terminal as well.

    The first column, which names the rows, is aligned to the left and all others to the right.

    Raises:
        ValueError: if a row and the header have different numbers of cells.
    """
    table = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(1, *map(len, column)) for column in zip(*table, strict=True)]
    rule = [f":{'-' * (widths[0] + 1)}", *("-" * (width + 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in table:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])
