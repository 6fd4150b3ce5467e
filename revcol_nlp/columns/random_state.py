"""Random generators: draw in the backward pass what was drawn in the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def get_rng_state(device: torch.device) -> list[Tensor]:
    """State of the generators that a level on ``device`` can draw from."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return states


def set_rng_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1], device)


@contextmanager
def replay_rng(states: list[Tensor] | None, device: torch.device) -> Iterator[None]:
    """Draw again what was drawn after ``states``, leaving the global stream where it is."""
    if states is None:
        yield
        return
    now = get_rng_state(device)
    set_rng_state(states, device)
    try:
        yield
    finally:
        set_rng_state(now, device)
