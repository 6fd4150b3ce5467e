"""Kinds of columns: weights shared between columns, other inputs, hooks on levels."""

import pytest
import torch
from torch import nn

from revcol_nlp.columns import (
    Column,
    IsotropicConfig,
    Level,
    RevCol,
    build_isotropic_columns,
    gradient_difference,
)
from tests.helpers.columns import DIM, build, loss_of, stem_output


def shared_stack(steps: int, **revcol) -> RevCol:
    """The first of two columns, then the second ``steps`` times."""
    torch.manual_seed(0)
    config = IsotropicConfig(dim=DIM, num_heads=4, ffn_dim=2 * DIM, num_columns=2, dropout=0.1)
    first, step = build_isotropic_columns(config)
    return RevCol([first] + [step] * steps, **revcol)


# Shared weights


@pytest.mark.parametrize("keep_columns", [0, 1])
def test_columns_that_share_weights_have_the_gradients_of_ordinary_autograd(keep_columns):
    found = gradient_difference(shared_stack(7, keep_columns=keep_columns), stem_output())
    # Weights used seven times: the sum over columns is rounded in another order.
    assert max(found.values()) <= 1e-6
    assert len(found) == len(list(shared_stack(7).parameters())) + 1


def test_one_column_in_every_place_keeps_its_gamma_and_learns():
    config = IsotropicConfig(dim=DIM, num_heads=4, ffn_dim=2 * DIM, num_columns=2)
    _, step = build_isotropic_columns(config)
    model = RevCol([step] * 4)
    assert max(gradient_difference(model, stem_output()).values()) <= 1e-6
    loss_of(model.train()(stem_output())).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_shared_weights_are_saved_once_and_load_into_another_number_of_columns():
    two, five = shared_stack(2), shared_stack(5)
    assert two.state_dict().keys() == five.state_dict().keys()
    assert {name.split(".")[1] for name in two.state_dict()} == {"0", "1"}
    with torch.no_grad():
        for p in two.parameters():
            p.add_(0.1)
    five.load_state_dict(two.state_dict())
    torch.testing.assert_close(
        five.eval().forward_columns(stem_output(), [(2, 3)])[2, 3],
        two.eval()(stem_output())[3],
        rtol=1e-6,
        atol=1e-6,
    )


def test_the_columns_read_as_a_list():
    model = shared_stack(3)
    assert len(model.columns) == 4
    assert model.columns[1] is model.columns[2] is model.columns[-1] is not model.columns[0]
    assert [column is model.columns[0] for column in model.columns] == [True, False, False, False]
    model.columns = model.columns[:2]
    assert [len(model.columns), len(model(stem_output()))] == [2, 4]


def test_held_bytes_do_not_grow_with_shared_columns():
    from revcol_nlp.columns.verify import describe_step

    held = [describe_step(shared_stack(steps), stem_output()).held_bytes for steps in (3, 9)]
    assert held[0] == held[1]


# Other inputs


class Sum(nn.Module):
    """``tanh(W sum(inputs))`` of whatever it gets."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, *inputs):
        return torch.tanh(self.linear(sum(x for x in inputs if x is not None)))


class WithTopDownShortcut(Column):
    """Level 0 reads the previous column's top level too, as the paper's largest network does."""

    def level_inputs(self, index, stem_output, states):
        inputs = super().level_inputs(index, stem_output, states)
        return (*inputs, states[-1]) if index == 0 else inputs


class Dense(Column):
    """Eq. 2 in full: a level reads every state but the one that it replaces, and the stem."""

    def level_inputs(self, index, stem_output, states):
        return (stem_output, *states[:index], *states[index + 1 :])


@pytest.mark.parametrize("kind", [WithTopDownShortcut, Dense])
@pytest.mark.parametrize("keep_columns", [0, 2])
def test_a_kind_of_column_says_what_its_levels_read(kind, keep_columns):
    torch.manual_seed(0)
    model = RevCol(
        [kind(Level(Sum(), DIM) for _ in range(4)) for _ in range(6)], keep_columns=keep_columns
    )
    found = gradient_difference(model, stem_output())
    assert len(found) == len(list(model.parameters())) + 1
    assert max(found.values()) <= 1e-6
    standard = RevCol([Column(list(column.levels)) for column in model.columns])
    assert not torch.allclose(standard.eval()(stem_output())[0], model.eval()(stem_output())[0])


@pytest.mark.parametrize(
    "returned",
    [
        lambda self, index, stem, states: (stem, states[index]),
        lambda self, index, stem, states: (2 * stem, None),
    ],
)
def test_inputs_that_could_not_be_given_back_are_refused(returned, monkeypatch):
    monkeypatch.setattr(WithTopDownShortcut, "level_inputs", returned)
    model = RevCol([WithTopDownShortcut(Level(Sum(), DIM) for _ in range(2)) for _ in range(2)])
    with pytest.raises(ValueError, match=r"WithTopDownShortcut.level_inputs may return"):
        model(stem_output())


# Hooks


@pytest.mark.parametrize("mode", ["reversible", "plain", "evaluation"])
def test_hooks_on_levels_see_each_state_once_in_a_step(mode):
    model = build(4, revcol={"reversible": mode != "plain"}).train(mode != "evaluation")
    seen = []
    for column in model.columns:
        for level in column.levels:
            level.register_forward_hook(lambda module, _, state: seen.append((module, state)))
    places = [(column, level) for column in range(4) for level in range(4)]
    states = model.forward_columns(stem_output(), places)
    if mode != "evaluation":
        sum(state.sum() for state in states.values()).backward()
    assert [id(module) for module, _ in seen] == [
        id(level) for column in model.columns for level in column.levels
    ]
    for (_, state), wanted in zip(seen, states.values(), strict=True):
        # A state that is returned is rounded to 24 bits of its position's largest channel.
        assert (state - wanted).abs().max() <= 2**-23 * wanted.abs().max()


@pytest.mark.parametrize("column", [0, 1, 3])
def test_a_state_that_a_hook_took_may_be_all_that_a_loss_reads(column):
    found = []
    for reversible in (True, False):
        model = build(4, revcol={"reversible": reversible}).train()
        taken = []
        level = model.columns[column].levels[1]
        level.register_forward_hook(lambda *call, taken=taken: taken.append(call[-1]))
        model(stem_output())
        taken[0].float().square().sum().backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        assert (grad - found[1][name]).abs().max() <= 1e-6 * found[1][name].abs().max()


@pytest.mark.parametrize("change", [lambda state: 2 * state, lambda state: state.mul_(2)])
def test_a_hook_that_changes_a_rebuilt_state_is_refused(change):
    model = build(3).train()
    model.columns[0].levels[0].register_forward_hook(lambda *call: change(call[-1]))
    with pytest.raises(RuntimeError, match=r"hook replaced or changed.*reversible=False"):
        model(stem_output())


# Gamma


def test_gamma_has_one_dimension_whatever_the_state_has():
    """torch and timm decay every parameter of more dimensions."""
    level = Level(nn.Conv2d(4, 4, 1), 4, channel_dim=-3)
    assert level.gamma.shape == (4,)
