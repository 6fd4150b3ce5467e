"""The column equation, its inverse, gamma's bound, and the rounding that makes inversion exact."""

import pytest
import torch
from torch import nn

from revcol_nlp.columns.column import Column
from revcol_nlp.columns.keyframes import measure_growth, plan_keyframes
from revcol_nlp.columns.level import GAMMA_MIN, Level
from revcol_nlp.columns.precision import Precision
from revcol_nlp.columns.stack import RevCol
from revcol_nlp.columns.states import (
    GUARD,
    Grid,
    State,
    invert_update,
    measure_shift,
    read_state,
    round_by_shift,
    unguard_state,
    update_state,
)
from revcol_nlp.columns.verify import gradient_difference
from tests.helpers.columns import build, stem_output
from tests.helpers.exact import assert_bits_equal

TRAINING = Precision(network=torch.float32, state=torch.float64)


class Weighted(nn.Module):
    """``F(below, above) = a * below + b * above``: linear, so that Eq. 3 can be done by hand."""

    def __init__(self, a: float, b: float):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, below, above):
        return self.a * below + (0 if above is None else self.b * above)


def test_states_follow_equation_3():
    columns = [Column(Level(Weighted(2.0, 3.0), 1) for _ in range(3)) for _ in range(2)]
    x = torch.tensor([[[1.0]]])
    states = RevCol(columns)(x)
    # First column: 2, 4, 8. Second, gamma 0.5, stem 1: 2*1 + 3*4 + 1, 2*15 + 3*8 + 2, 2*56 + 4.
    assert [s.item() for s in states] == [15.0, 56.0, 116.0]


def guarded(x: torch.Tensor) -> State:
    """``x`` as a state of the first column, where the network's output is all of it."""
    exact, shift = update_state(x, None, None, TRAINING, -1)
    return State(exact, Grid(-1, shift))


def test_inverse_gives_back_the_previous_state():
    generator = torch.Generator().manual_seed(0)
    y, last = (torch.randn(5, 7, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    scale = torch.linspace(0.001, 1, 16, dtype=torch.float64)
    last = guarded(last)
    exact, shift = update_state(y, scale, last.exact, TRAINING, -1)
    rebuilt = State(invert_update(unguard_state(exact, shift), y, scale), Grid(-1))
    # float64 rounds at 1e-16 of the largest value; the smallest scale, 1e-3, amplifies that.
    assert (rebuilt.exact - last.exact).abs().max() < 1e-12 * last.exact.abs().max()
    assert_bits_equal(read_state(rebuilt, TRAINING), read_state(last, TRAINING))


def test_a_guarded_state_rounds_alike_when_it_is_rebuilt_a_little_off():
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = guarded(x)
    rounded = read_state(state, TRAINING)
    step = 2.0 ** (torch.frexp(x.abs().amax(-1, keepdim=True)).exponent - 24)
    noise = (torch.rand(x.shape, dtype=torch.float64) * 2 - 1) * step * GUARD / 2 * 0.99
    assert_bits_equal(read_state(State(state.exact + noise, Grid(-1)), TRAINING), rounded)
    # Without the guard the same noise would change what F reads.
    assert not torch.equal(round_by_shift(x + noise, measure_shift(x, -1)).float(), rounded)


def test_rounding_stays_below_float32_resolution_of_the_largest_channel():
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = guarded(x)
    bound = x.abs().amax(-1, keepdim=True) * 2.0**-24
    assert ((read_state(state, TRAINING).double() - x).abs() <= bound).all()
    assert ((state.exact - x).abs() <= GUARD * bound).all()


def test_gamma_keeps_its_sign_and_its_distance_from_zero_and_can_leave_the_bound():
    level = Level(nn.Identity(), 4)
    with torch.no_grad():
        level.gamma.copy_(torch.tensor([1e-5, -1e-5, 0.7, -0.7]))
    expected = torch.tensor([GAMMA_MIN, -GAMMA_MIN, 0.7, -0.7])
    torch.testing.assert_close(level.bounded_gamma(), expected)
    level.bounded_gamma().sum().backward()
    assert_bits_equal(level.gamma.grad, torch.ones(4))
    # Reading never writes.
    assert level.gamma[0] == 1e-5


def test_gradients_stay_exact_with_gamma_below_its_bound_and_negative():
    model = build(4, gamma=1e-6)
    with torch.no_grad():
        model.columns[2].levels[1].gamma.fill_(-0.3)
    assert max(gradient_difference(model, stem_output()).values()) <= 1e-6


def test_the_first_column_has_no_gamma_and_no_top_down_input():
    first, second = build(2).columns
    assert not [n for n, _ in first.named_parameters() if "gamma" in n or "top_down" in n]
    assert all(level.gamma is None for level in first.levels)
    assert not any(level.gamma is None for level in second.levels)
    assert second.levels[3].network.fusion.top_down is None


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(0.5, {7}), (1.0, {7}), (1e-3, {5, 3, 1, 7}), (0.05, {7, 2})],
)
def test_keyframes_stand_where_the_growth_of_errors_would_pass_the_budget(gamma, expected):
    # 8 columns; each factor is 1 / (gamma * (1 - GUARD)), and the budget 1e6.
    # gamma 1e-3: the second inversion passes 1e6; gamma 0.05: four stay below, the fifth passes.
    columns = build(8, gamma=gamma).columns
    assert plan_keyframes(measure_growth(columns), 1e6) == expected


def test_keyframes_follow_the_smallest_channel():
    model = build(8, gamma=1.0)
    with torch.no_grad():
        for column in model.columns[1:]:
            column.levels[2].gamma[5] = 1e-3
    assert plan_keyframes(measure_growth(model.columns), 1e6) == {7, 5, 3, 1}


def test_levels_need_not_share_a_shape_and_channels_may_stand_anywhere():
    class Conv(nn.Module):
        """A level of an image pyramid: half the resolution and twice the channels of the last."""

        def __init__(self, channels, from_channels, stride, top_channels):
            super().__init__()
            self.down = nn.Conv2d(from_channels, channels, 3, stride, padding=1)
            self.up = nn.Conv2d(top_channels, channels, 1) if top_channels else None
            self.norm = nn.GroupNorm(1, channels)

        def forward(self, below, above):
            x = self.down(below)
            if above is not None and self.up is not None:
                x = x + nn.functional.interpolate(self.up(above), scale_factor=2)
            return torch.tanh(self.norm(x))

    torch.manual_seed(0)
    widths = [4, 8, 16]
    model = RevCol(
        Column(
            Level(
                Conv(
                    width,
                    widths[level - 1] if level else 3,
                    2 if level else 1,
                    widths[level + 1] if column and level < 2 else 0,
                ),
                width,
                channel_dim=-3,
            )
            for level, width in enumerate(widths)
        )
        for column in range(6)
    )
    images = torch.randn(2, 3, 16, 16)
    assert [tuple(s.shape) for s in model(images)] == [(2, 4, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4)]
    assert max(gradient_difference(model, images).values()) <= 1e-6


def test_evaluation_takes_the_plain_path_in_the_dtype_of_the_stem(monkeypatch):
    def refuse(*_):
        raise AssertionError("the reversible path ran")

    def assert_like_trained(states):
        # Training carries float64 states and evaluation float32 ones.
        for state, expected in zip(states, trained, strict=True):
            assert (state - expected).abs().max() < 1e-4 * expected.abs().max()

    model, stem = build(4), stem_output()
    trained = model.train()(stem)
    monkeypatch.setattr("revcol_nlp.columns.stack.ReversibleRun", refuse)
    with torch.no_grad():
        assert_like_trained(model(stem))
    assert_like_trained(model.eval()(stem))
    assert {s.dtype for s in model(stem)} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep_columns": 5}, "keep_columns must be between 0 and the number of columns, 4"),
        ({"keep_columns": -1}, "keep_columns must be between 0"),
        ({"keyframe_budget": 1e9}, "keyframe_budget must be between 1 and 1e.06"),
        ({"keyframe_budget": 0.5}, "keyframe_budget must be between 1"),
    ],
)
def test_impossible_options_say_what_is_wrong(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(4, revcol=options)


def test_no_columns_and_unknown_columns_are_refused():
    with pytest.raises(ValueError, match="at least 1 column"):
        RevCol([])
    with pytest.raises(ValueError, match="no place"):
        build(2).forward_columns(stem_output(), [(2, 0)])
