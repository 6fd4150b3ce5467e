"""Bytes held for the backward pass, and graphs alive during it."""

import gc
import weakref

import pytest
import torch

from revcol_nlp.columns import verify
from tests.helpers.columns import DIM, build, loss_of, stem_output

STATE_BYTES = stem_output().numel() * 8  # one level's state, in float64


def held_bytes(columns: int, *, reversible: bool = True, gamma=0.5, **revcol) -> int:
    """Bytes that one training step holds for backward, parameters aside."""
    revcol = {"reversible": reversible, **revcol}
    model = build(columns, gamma=gamma, dropout=0.1, revcol=revcol).train()
    step = lambda: loss_of(model(stem_output().requires_grad_()))  # noqa: E731
    return verify.count_held_bytes(step, list(model.parameters()))


def test_a_further_column_holds_nothing():
    # gamma 1: no keyframes, which are a column's states every so often (below).
    assert held_bytes(4, gamma=1.0) == held_bytes(8, gamma=1.0) == held_bytes(32, gamma=1.0)


def test_without_the_reversible_path_every_column_holds_its_activations():
    four, eight = held_bytes(4, reversible=False), held_bytes(8, reversible=False)
    per_column = (eight - four) / 4
    assert per_column > 10 * 4 * STATE_BYTES / 2
    assert held_bytes(4) < four / 3


def test_keyframes_hold_one_columns_states_each():
    # gamma 1e-3, all but the last column reversible: keyframes at columns 6, 4, 2, 0 of 7.
    extra = held_bytes(8, gamma=1e-3) - held_bytes(2, gamma=1e-3)
    assert extra == 3 * 4 * STATE_BYTES


@pytest.mark.parametrize("keep", [0, 1, 2, 4])
def test_keep_columns_trades_memory_for_recomputation(keep):
    model = build(4, revcol={"keep_columns": keep}).train()
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    for column in model.columns:
        for level in column.levels:
            level.network.register_forward_hook(count)
    loss_of(model(stem_output().requires_grad_())).backward()
    # Each level once forward, and once more where it is rebuilt.
    assert calls == 16 + 4 * (4 - keep)
    if keep:
        assert held_bytes(4, keep_columns=keep) > held_bytes(4, keep_columns=keep - 1)


def test_one_levels_graph_is_alive_at_a_time():
    model = build(6, revcol={"keep_columns": 0}).train()
    alive: list[weakref.ref] = []
    most = 0

    class Witness(torch.autograd.Function):
        """Lives as long as the graph of the level that it stands in."""

        @staticmethod
        def forward(ctx, x):
            ctx.token = Token()
            alive.append(weakref.ref(ctx.token))
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            nonlocal most
            most = max(most, sum(ref() is not None for ref in alive))
            return grad

    class Token:
        pass

    for column in model.columns:
        for level in column.levels:
            level.network.register_forward_hook(lambda _module, _inputs, y: Witness.apply(y))
    loss = loss_of(model(stem_output().requires_grad_()))
    gc.collect()
    assert not any(ref() is not None for ref in alive)
    loss.backward()
    assert most == 1
    assert len(alive) == 2 * 6 * 4


def tensors() -> int:
    """Return the number of tensors of a state's shape that Python can see."""
    gc.collect()
    return sum(type(o) is torch.Tensor and o.shape == (4, 8, DIM) for o in gc.get_objects())


def test_a_further_column_holds_nothing_besides_saved_tensors_either():
    alive = []
    for columns in (4, 8):
        model = build(columns, gamma=1.0).train()
        before = tensors()
        loss = loss_of(model(stem_output().requires_grad_()))
        alive.append(tensors() - before)
        del loss
    assert alive[0] == alive[1]


def test_nothing_stays_behind_after_a_step():
    model = build(6).train()
    before = tensors()
    loss_of(model(stem_output().requires_grad_())).backward()
    assert tensors() == before
    # Nor after a forward pass that no backward follows.
    model(stem_output().requires_grad_())
    assert tensors() == before
