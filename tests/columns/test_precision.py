"""Models in float64 and in half precision."""

import pytest
import torch
from torch import nn

from revcol_nlp.columns import Column, Level, RevCol
from revcol_nlp.columns.attention import NormalizedAttention
from tests.helpers.columns import build, stem_output


class Smooth(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, below, above):
        return torch.tanh(self.linear(below)) + (0 if above is None else torch.sin(above))


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_float64_columns_pass_gradcheck(training, reversible):
    torch.manual_seed(0)
    model = RevCol(
        [Column(Level(Smooth(), 3) for _ in range(3)) for _ in range(3)], reversible=reversible
    )
    model.double().train(training)
    stem = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tuple(model(x)), stem)


def test_isotropic_float64_columns_pass_gradcheck():
    model = build(2, dim=4, num_heads=2, ffn_dim=4).double()
    stem = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    for training in (True, False):
        assert torch.autograd.gradcheck(lambda x: tuple(model(x)), model.train(training) and stem)
    attention = NormalizedAttention(8, 2).double()
    tokens = torch.randn(1, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, tokens)


def test_nothing_is_rounded_in_float64():
    model = build(4).double()
    outputs = [model.train(training)(stem_output().double())[-1] for training in (True, False)]
    torch.testing.assert_close(*outputs, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_compute_the_same_in_training_and_evaluation(dtype):
    torch.manual_seed(0)
    model = RevCol([Column(Level(Smooth(), 3) for _ in range(3)) for _ in range(6)]).to(dtype)
    stem = torch.randn(64, 3).to(dtype)
    trained = model.train()(stem)[-1].float()
    evaluated = model.eval()(stem)[-1].float()
    # Up to one rounding of half precision: states are carried in float32 at least in both.
    unit = torch.finfo(dtype).eps * trained.abs().max()
    assert (trained - evaluated).abs().max() <= unit
    assert {state.dtype for state in model(stem)} == {dtype}


def test_float32_states_halve_what_is_held_and_are_not_exact():
    from revcol_nlp.columns.verify import describe_step, gradient_difference

    held = {}
    for dtype in (torch.float64, torch.float32):
        model = build(6, revcol={"keep_columns": 0, "state_dtype": dtype})
        held[dtype] = describe_step(model, stem_output().requires_grad_()).held_bytes
    states = 4 * stem_output().numel()
    assert held[torch.float64] - held[torch.float32] == 4 * states
    assert max(gradient_difference(model, stem_output()).values()) > 1e-7
    with pytest.raises(ValueError, match="state_dtype must be"):
        build(2, revcol={"state_dtype": torch.bfloat16})
