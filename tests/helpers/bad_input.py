"""Generated bad input, and a check of how a call ends that gets it."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

VALUES = ("-1", "0", "-1000000000", "1000000000", "9" * 30, "1.5", "nan", "inf", "1e400", "x", "")

# Nothing here takes more than a second; no test waits for the limit.
SECONDS = 60


class Refusal(str):
    """The message with which a call ended."""


def outcome(call: Callable[[], Any]) -> Any:
    """Return what ``call`` returns, or the `Refusal` that it ends with.

    Raises:
        AssertionError: if it hangs, or ends without a message.
    """
    errors = io.StringIO()
    try:
        with _time_limit(), contextlib.redirect_stderr(errors):
            done = call()
    except SystemExit as ended:
        if ended.code in (0, None):
            return None
        sentence = errors.getvalue().rstrip().rpartition("\n")[2]
        assert "error: " in sentence, errors.getvalue()
        return Refusal(sentence)
    except Exception as error:
        assert len(str(error).split()) >= 2, f"no sentence: {error!r}"
        return Refusal(f"{type(error).__name__}: {error}")
    return done


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def hangs(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"hangs after {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def command_line(*args: object) -> Iterator[None]:
    """``sys.argv`` inside, with the program's name."""
    before, sys.argv = sys.argv, ["program", *map(str, args)]
    try:
        yield
    finally:
        sys.argv = before


class Executes:
    """A pickle of it runs ``os.mkdir(path)`` when it is loaded as any object."""

    def __init__(self, path: os.PathLike):
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (os.fspath(self.path),)


# Damage to a file, by name, since hypothesis prints it; `damaged` applies it to the bytes.
FILE_DAMAGES = st.one_of(
    st.tuples(st.just("cut off"), st.floats(0, 0.999)),
    st.tuples(st.just("byte flipped"), st.floats(0, 0.999), st.integers(1, 255)),
    st.tuples(st.just("blocks not written"), st.floats(0, 0.9)),
    st.tuples(st.just("another file"), st.binary(max_size=300)),
    st.tuples(st.just("appended to"), st.binary(min_size=1, max_size=300)),
)


def damaged(content: bytes, damage: tuple) -> bytes:
    """Return the content of a file after one of `FILE_DAMAGES`."""
    kind, where, *how = damage
    place = round(where * len(content)) if isinstance(where, float) else 0
    match kind:
        case "cut off":
            return content[:place]
        case "byte flipped":
            place = min(place, len(content) - 1)
            return content[:place] + bytes([content[place] ^ how[0]]) + content[place + 1 :]
        case "blocks not written":
            return (
                content[:place] + bytes(len(content[place : place + 512])) + content[place + 512 :]
            )
        case "another file":
            return where
        case "appended to":
            return content + where
    raise ValueError(kind)


# Values that replace a value in a checkpoint.
JUNK = st.sampled_from(
    [None, 0, -1, 3.5, "text", [], [1], {}, {"a": 1}, (1, 2), True, torch.zeros(3), math.nan]
)
WEIGHTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "another shape": lambda weight: torch.zeros(3, 5),
    "whole numbers": lambda weight: weight.to(torch.int64),
    "complex": lambda weight: torch.complex(weight, weight),
    "nan": lambda weight: torch.full_like(weight, math.nan),
    "one inf": lambda weight: (
        weight.flatten().index_fill(0, torch.tensor([0]), math.inf).view_as(weight)
    ),
    "text": lambda weight: "text",
    "none": lambda weight: None,
}
CONTENT_DAMAGES = st.one_of(
    st.tuples(st.just("key lost"), st.integers(0, 30)),
    st.tuples(st.just("key replaced"), st.integers(0, 30), JUNK),
    st.tuples(st.just("key executes"), st.integers(0, 30)),
    st.tuples(st.just("all replaced"), JUNK),
    st.tuples(st.just("weight lost"), st.integers(0, 1000)),
    st.tuples(st.just("weight added"), st.sampled_from(["extra", "encoder.extra"])),
    *(st.tuples(st.just("weight"), st.integers(0, 1000), st.just(kind)) for kind in WEIGHTS),
)


def with_damaged_content(
    state: dict[str, Any], weights: str, damage: tuple, executed: os.PathLike
) -> Any:
    """Return a checkpoint after one of `CONTENT_DAMAGES`; ``state`` itself is changed.

    Args:
        weights: the key of the weights.
        executed: a folder that the checkpoint makes if its code is executed.
    """
    kind, which, *how = damage
    keys, names = sorted(state), sorted(state[weights])
    match kind:
        case "key lost":
            del state[keys[which % len(keys)]]
        case "key replaced":
            state[keys[which % len(keys)]] = how[0]
        case "key executes":
            state[keys[which % len(keys)]] = Executes(executed)
        case "all replaced":
            return which
        case "weight lost":
            del state[weights][names[which % len(names)]]
        case "weight added":
            state[weights][which] = torch.zeros(2)
        case "weight":
            name = names[which % len(names)]
            state[weights][name] = WEIGHTS[how[0]](state[weights][name].float())
    return state


def examples(few: int, many: int) -> Callable:
    """Parametrise a test by how many examples it tries: a few, and many if it is marked slow."""
    slow = pytest.param(many, marks=pytest.mark.slow)
    return pytest.mark.parametrize("number", [few, slow])


def try_all(number: int, check: Callable[..., None], **strategies: SearchStrategy) -> None:
    """Call ``check`` with ``number`` examples of ``strategies``, the same in each run."""
    settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(**strategies)(check))()
