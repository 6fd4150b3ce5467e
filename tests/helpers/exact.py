"""Comparison to the last bit, for values that are equal by design.

A test may ask for equal bits only where both sides run the same operations on the same numbers in
the same order: reversible and plain columns, a resumed and an uninterrupted run, a saved and a
loaded tensor. Both sides then run on one machine in one test, so its processor does not matter.

Everything else, above all a sum in another order (several processes, microbatches, chunks, another
kernel), is rounded differently on each processor. Compare it with a relative tolerance, and never
compare weights after Adam: Adam makes a full step of a gradient that is rounding alone.
"""

from __future__ import annotations

from typing import Any

import torch


def assert_bits_equal(actual: Any, expected: Any) -> None:
    """Assert that two tensors, or nested mappings and sequences of them, are equal bit for bit.

    Dtypes, shapes and keys must be equal, too. A nan equals a nan.

    Raises:
        AssertionError: naming the first entry that differs, and by how much.
    """
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
