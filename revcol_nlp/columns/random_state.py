"""The global random generators: draw in the backward pass what was drawn in the forward pass."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def get_generators(device: torch.device) -> list[Any]:
    """States of the global generators: Python's, torch's, numpy's where it is loaded, and that of
    ``device``."""
    numpy = sys.modules.get("numpy")
    states: list[Any] = [
        random.getstate(),
        None if numpy is None else numpy.random.get_state(),
        torch.get_rng_state(),
    ]
    if device.type != "cpu" and torch.get_device_module(device).is_available():
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def set_generators(states: list[Any], device: torch.device) -> None:
    """Set what `get_generators` returned."""
    python, numpy, cpu, *accelerator = states
    random.setstate(python)
    if numpy is not None:
        sys.modules["numpy"].random.set_state(numpy)
    torch.set_rng_state(cpu)
    if accelerator:
        torch.get_device_module(device).set_rng_state(accelerator[0], device)


def same_generators(a: list[Any], b: list[Any]) -> bool:
    """Whether nothing was drawn between the two."""
    if a[0] != b[0] or [*map(_bytes, a[2:])] != [*map(_bytes, b[2:])]:
        return False
    if a[1] is None or b[1] is None:
        return a[1] is b[1]
    # numpy's state: a name, an array of keys, a place in it, and a Gaussian kept for later.
    return a[1][2:] == b[1][2:] and bool((a[1][1] == b[1][1]).all())


@contextmanager
def draw_again(states: list[Any] | None, device: torch.device) -> Iterator[None]:
    """Inside, what was drawn after ``states`` is drawn again; the streams stay where they are."""
    if states is None:
        yield
        return
    now = get_generators(device)
    set_generators(states, device)
    try:
        yield
    finally:
        set_generators(now, device)


def _bytes(state: Tensor) -> bytes:
    # Not by an operator: where a step runs on fake tensors, operators would take this for one.
    return ctypes.string_at(state.data_ptr(), state.numel())
