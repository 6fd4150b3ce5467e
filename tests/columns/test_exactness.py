"""Reversible gradients are those of ordinary autograd: every parameter, gamma and the input."""

import math

import pytest
import torch

from revcol_nlp.columns import precision, random_state, rerun, states
from revcol_nlp.columns.verify import compare_gradients, compute_gradients, gradient_difference
from tests.helpers.columns import build, largest_difference, stem_output
from tests.helpers.exact import assert_bits_equal

BOUND = 1e-6
RANDOM = {
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "drop_path_rate": 0.1,
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16-autocast"])
@pytest.mark.parametrize("gamma", [0.5, "uniform"])
@pytest.mark.parametrize("columns", [4, 8, 16, 32, 64])
def test_gradients_equal_ordinary_autograd_with_dropout_and_drop_path(columns, gamma, dtype):
    model = build(columns, gamma=gamma, **RANDOM)
    # Enough elements that a scheme which is exact only by luck is not.
    stem = stem_output(batch=8, length=32)
    found = gradient_difference(model, stem, autocast=dtype)
    assert len(found) == len(list(model.parameters())) + 1
    assert max(found.values()) <= BOUND


def test_gradients_equal_in_a_bf16_model():
    model = build(8, **RANDOM).bfloat16()
    assert max(gradient_difference(model, stem_output().bfloat16()).values()) <= BOUND


def test_a_nan_is_not_lost():
    planted = {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "zero": torch.zeros(2)}
    sound = {"a": torch.ones(2), "b": torch.ones(2), "zero": torch.zeros(2)}
    assert compare_gradients(planted, sound) == {"a": 0, "b": float("inf"), "zero": 0}


def test_outputs_are_bit_identical():
    model = build(8, **RANDOM).train()
    outputs = []
    for model.reversible in (True, False):
        torch.manual_seed(0)
        outputs.append(model(stem_output()))
    assert_bits_equal(*outputs)


@pytest.mark.parametrize("keep_columns", [0, 1, 3, 6])
def test_gradients_are_exact_whatever_is_kept(keep_columns):
    model = build(6, gamma="uniform", revcol={"keep_columns": keep_columns}, **RANDOM)
    assert max(gradient_difference(model, stem_output()).values()) <= BOUND


def test_every_level_of_every_column_can_be_read_and_differentiated():
    model = build(5, **RANDOM).train()
    found = []
    for model.reversible in (True, False):
        model.zero_grad()
        torch.manual_seed(0)
        places = [(column, level) for column in range(5) for level in range(4)]
        states = model.forward_columns(stem_output(), places)
        sum(state.square().sum() for state in states.values()).backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    assert largest_difference(*found) <= BOUND


def test_the_loss_may_read_an_early_column_only():
    model = build(5).train()
    found = []
    for model.reversible in (True, False):
        model.zero_grad()
        model.forward_columns(stem_output(), [(2, 1)])[2, 1].square().sum().backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert largest_difference(*found) <= BOUND


def test_key_padding_mask_passes_through_untouched():
    model = build(6, **RANDOM)
    mask = torch.zeros(4, 8, dtype=torch.bool)
    mask[1, 5:] = mask[3, 2:] = True
    before = mask.clone()
    kwargs = [{"key_padding_mask": mask}] * 4
    masked = compute_gradients(model, stem_output(), reversible=True, level_kwargs=kwargs)
    plain = compute_gradients(model, stem_output(), reversible=False, level_kwargs=kwargs)
    assert largest_difference(masked, plain) <= BOUND
    unmasked = compute_gradients(model, stem_output(), reversible=True)
    assert largest_difference(masked, unmasked) > 1e-2
    assert_bits_equal(mask, before)


def test_level_kwargs_are_for_each_level_or_for_each_level_of_each_column():
    with pytest.raises(ValueError, match="3 mappings for 4 levels"):
        build(2)(stem_output(), [{}] * 3)
    with pytest.raises(ValueError, match="3 of 2 columns"):
        build(2)(stem_output(), [[{}] * 4] * 3)


# What the exactness rests on: without any one of these the gradients are visibly wrong.


def test_without_the_guard_errors_grow(monkeypatch):
    model, stem = build(32, gamma="uniform"), stem_output(batch=32, length=32)
    monkeypatch.setattr(states, "GUARD", 0.0)
    assert max(gradient_difference(model, stem).values()) > 1e-4


def test_without_keyframes_small_gammas_lose_the_states(monkeypatch):
    model = build(16, gamma="uniform")
    monkeypatch.setattr("revcol_nlp.columns.stack.plan_keyframes", lambda growth, _: {len(growth)})
    with pytest.raises(RuntimeError, match="gave another output"):
        compute_gradients(model, stem_output(), reversible=True)
    monkeypatch.setattr(rerun, "REPEATED_TO", math.inf)
    assert max(gradient_difference(model, stem_output()).values()) > 1e-4


def test_without_replayed_random_numbers_dropout_breaks_the_gradients(monkeypatch):
    model = build(4, dropout=0.1)
    monkeypatch.setattr(random_state, "set_generators", lambda *_: None)
    with pytest.raises(RuntimeError, match="gave another output"):
        compute_gradients(model, stem_output(), reversible=True)
    monkeypatch.setattr(rerun, "REPEATED_TO", math.inf)
    assert max(gradient_difference(model, stem_output()).values()) > 1e-2


def test_a_device_without_float64_keeps_activations_and_says_so_once(monkeypatch, caplog):
    precision._warn_once.cache_clear()
    monkeypatch.setattr(precision, "_has_float64", lambda _: False)
    model = build(4)
    assert max(gradient_difference(model, stem_output()).values()) == 0
    assert [r.message for r in caplog.records] == [
        "cpu has no float64 to invert columns in: activations kept"
    ]
    precision._warn_once.cache_clear()
