"""Reversible columns beside other parts of torch: hooks, overflow, inference mode, checkpoints."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from revcol_nlp.columns import Column, Level, RevCol, gradient_difference
from revcol_nlp.columns.states import State
from tests.helpers.columns import DIM, build, largest_difference, loss_of, stem_output


def stack(network: type[nn.Module], columns: int = 4, **revcol) -> RevCol:
    """Columns of two levels of ``network()``, all rebuilt."""
    torch.manual_seed(0)
    return RevCol(
        [Column(Level(network(), DIM) for _ in range(2)) for _ in range(columns)],
        **({"keep_columns": 0} | revcol),
    )


def gradients(model: RevCol, reversible: bool) -> dict[str, torch.Tensor]:
    """Gradients that ``backward()`` accumulates; hooks on parameters act on them."""
    model.reversible = reversible
    model.train().zero_grad()
    loss_of(model(stem_output())).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


class Linear(nn.Module):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, below, above):
        x = torch.tanh(self.linear(below)) + (0 if above is None else 0.5 * above)
        return x * self.factor


# Hooks


def test_hooks_on_a_network_s_parameter_fire_once_and_change_its_gradient_once():
    model, seen = stack(Linear), []
    weight = model.columns[1].levels[0].network.linear.weight
    weight.register_hook(lambda grad: seen.append(grad) or 2 * grad)
    found = [gradients(model, reversible) for reversible in (True, False)]
    assert len(seen) == 2
    assert largest_difference(*found) <= 1e-6


def test_full_backward_hooks_on_levels_fire_and_gradients_stay_right():
    model, fired = stack(Linear), []
    for column in model.columns:
        for level in column.levels:
            level.register_full_backward_hook(lambda level, *_: fired.append(level))
    assert largest_difference(*(gradients(model, reversible) for reversible in (1, 0))) <= 1e-6
    assert (
        fired[:8] == fired[8:] == [x for c in reversed(list(model.columns)) for x in c.levels[::-1]]
    )


def change_previous(level, call):
    inputs, previous, *others = call
    return inputs, State(1.5 * previous.exact, previous.grid), *others


def change_input(level, call):
    (below, *above), *others = call
    return (State(1.5 * below.exact, below.grid), *above), *others


@pytest.mark.parametrize("change", [change_previous, change_input])
def test_a_pre_hook_that_changes_what_a_level_reads_is_refused(change):
    model = stack(Linear).train()
    model.columns[1].levels[1].register_forward_pre_hook(change)
    with pytest.raises(RuntimeError, match=r"hook replaced or changed.*reversible=False"):
        model(stem_output())


def test_a_hook_on_a_column_that_changes_a_state_is_refused():
    model = stack(Linear).train()
    model.columns[1].register_forward_hook(
        lambda column, call, states: [*states[:-1], State(1.5 * states[-1].exact, states[-1].grid)]
    )
    with pytest.raises(RuntimeError, match=r"hook replaced or changed.*reversible=False"):
        model(stem_output())


# Numbers that are not finite


def test_an_overflow_in_the_forward_pass_gives_gradients_that_are_not_finite():
    """Loss scalers see them and skip the step."""
    for reversible in (True, False):
        model = stack(Linear)
        model.columns[2].levels[0].network.factor = float("inf")
        found = gradients(model, reversible)
        assert not all(grad.isfinite().all() for grad in found.values())


def test_nan_is_handed_on_in_inference_mode():
    model, stem = stack(Linear).eval(), stem_output()
    stem[0, 0, 0] = float("nan")
    with torch.inference_mode():
        assert model(stem)[-1].isnan().any()


# Dtypes


@pytest.mark.parametrize("autocast", [True, False])
def test_float32_states_train_in_half_precision(autocast):
    model, stem = stack(Linear, state_dtype=torch.float32), stem_output()
    if not autocast:
        model, stem = model.bfloat16(), stem.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss_of(model.train()(stem)).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# What networks return and read


class Passes(nn.Module):
    def forward(self, below, above):
        return below


class ReturnsParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(DIM))

    def forward(self, below, above):
        return self.bias.expand_as(below)


@pytest.mark.parametrize("state_dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("network", [Passes, ReturnsParameter])
def test_a_network_may_return_its_input_or_a_view_of_a_parameter(network, state_dtype):
    model = stack(network, state_dtype=state_dtype)
    stem = stem_output().requires_grad_()
    before = stem.detach().clone()
    found = []
    for model.reversible in (True, False):
        wanted = [*model.parameters(), stem]
        loss = loss_of(model.train()(stem.mul(1).mul_(1)))
        found.append(torch.autograd.grad(loss, wanted, allow_unused=True))
    for ours, plain in zip(*found, strict=True):
        assert (ours is None) == (plain is None)
        if plain is not None:
            assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert torch.equal(stem, before)


def test_a_captured_trainable_tensor_that_a_network_returns_is_refused():
    class ReturnsCaptured(nn.Module):
        captured = torch.zeros(4, 8, DIM, requires_grad=True)

        def forward(self, below, above):
            return self.captured

    with pytest.raises(RuntimeError, match="hand it over in level_kwargs"):
        stack(ReturnsCaptured).train()(stem_output())


class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4, 8, DIM))

    def forward(self, *inputs):
        return torch.tanh(nn.functional.dropout(self.bias + sum(inputs), 0.1, self.training))


class WithoutStem(Column):
    def level_inputs(self, index, stem_output, states):
        return tuple(states[:index])


def test_a_level_may_read_nothing():
    torch.manual_seed(0)
    columns = [WithoutStem(Level(Shift(), DIM) for _ in range(2)) for _ in range(3)]
    model = RevCol(columns, keep_columns=0)
    assert max(gradient_difference(model, stem_output()).values()) <= 1e-6


def test_lazy_parameters_are_refused_until_they_are_made():
    class Lazy(Linear):
        def __init__(self):
            super().__init__()
            self.linear = nn.LazyLinear(DIM)

    model = stack(Lazy).train()
    with pytest.raises(RuntimeError, match=r"lazy parameters .*torch.no_grad"):
        model(stem_output())
    with torch.no_grad():
        model(stem_output())
    loss_of(model(stem_output())).backward()


# Memory


def test_frozen_first_columns_are_not_rebuilt_and_leave_no_state_behind():
    model = stack(Linear).train()
    for column in model.columns[:2]:
        column.requires_grad_(False)
    runs = []
    for number, column in enumerate(model.columns):
        column.levels[0].network.register_forward_hook(
            lambda *_, number=number: runs.append(number)
        )
    loss = loss_of(model(stem_output()))
    nodes = [loss.grad_fn]
    while (node := nodes.pop()) is None or node.name() != "ReversibleLevelBackward":
        nodes += [following for following, _ in (node.next_functions if node else ())]
    loss.backward()
    assert runs == [0, 1, 2, 3, 3, 2]
    assert node.call.chain.states is None


# Checkpoints around a whole RevCol


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_around_columns_gives_the_same_gradients(use_reentrant):
    model, found = build(4, dropout=0.1, revcol={"keep_columns": 0}).train(), []

    def top(x):
        return model(x)[-1]

    for run in (top, lambda x: checkpoint(top, x, use_reentrant=use_reentrant)):
        model.zero_grad()
        torch.manual_seed(0)
        stem = stem_output().requires_grad_()
        loss_of([run(stem)]).backward()
        named = {name: p.grad.clone() for name, p in model.named_parameters()}
        found.append(named | {"stem": stem.grad})
    assert largest_difference(*found) <= 1e-6
