"""A level's network may be any module: what it does is right, or refused in a sentence."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from revcol_nlp.columns import Column, Level, RevCol, gradient_difference
from tests.helpers.columns import DIM, build, loss_of, stem_output


def stack(network, columns: int = 4, levels: int = 2, **revcol) -> RevCol:
    """Columns of ``network()`` for each level, nothing kept."""
    torch.manual_seed(0)
    return RevCol(
        [Column(Level(network(), DIM) for _ in range(levels)) for _ in range(columns)],
        **({"keep_columns": 0} | revcol),
    )


class Linear(nn.Module):
    """``tanh(linear(below)) + above / 2``; the base of what follows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(DIM, DIM)

    def forward(self, below, above):
        return torch.tanh(self.linear(below)) + (0 if above is None else 0.5 * above)


# In place


class AddsInPlace(Linear):
    def forward(self, below, above):
        below += 1
        return super().forward(below, above)


class InPlaceReLU(Linear):
    def forward(self, below, above):
        return super().forward(nn.functional.relu(below, inplace=True), above)


class WritesAbove(Linear):
    def forward(self, below, above):
        return super().forward(below, above if above is None else above.mul_(2))


@pytest.mark.parametrize("mode", ["reversible", "plain", "evaluation", "no_grad", "inference"])
@pytest.mark.parametrize("network", [AddsInPlace, InPlaceReLU, WritesAbove])
def test_a_network_that_writes_into_its_inputs_is_refused_in_every_mode(network, mode):
    model = stack(network, reversible=mode != "plain").train(mode in ("reversible", "plain"))
    context = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(mode)
    with (
        context() if context else torch.enable_grad(),
        pytest.raises(RuntimeError, match="wrote into one of its inputs"),
    ):
        model(stem_output())


# Buffers


class Normed(Linear):
    """Batch norm: reads the batch, and counts running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(DIM)

    def forward(self, below, above):
        return super().forward(self.norm(below.flatten(0, 1)).view_as(below), above)


class Spectral(Linear):
    """Its weight depends on buffers that each forward pass changes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.utils.parametrizations.spectral_norm(self.linear)


class MovingScale(Linear):
    """As fake quantisation: a range that follows the inputs, and is read at once."""

    def __init__(self):
        super().__init__()
        self.register_buffer("largest", torch.ones(()))

    def forward(self, below, above):
        if self.training:
            self.largest = 0.5 * self.largest + 0.5 * below.detach().abs().max()
        return super().forward(torch.tanh(below / self.largest), above)


@pytest.mark.parametrize("network", [Normed, Spectral, MovingScale])
def test_buffers_that_a_network_changes_are_put_back_for_its_second_run(network):
    assert max(gradient_difference(stack(network), stem_output()).values()) <= 1e-6


@pytest.mark.parametrize("network", [Normed, Spectral, MovingScale])
def test_buffers_change_once_in_a_step(network):
    found = []
    for reversible in (True, False):
        model = stack(network, reversible=reversible).train()
        for seed in (1, 2):
            loss_of(model(stem_output(seed=seed))).backward()
        found.append(dict(model.named_buffers()))
    assert found[0].keys() == found[1].keys()
    for name, buffer in found[0].items():
        torch.testing.assert_close(buffer, found[1][name], rtol=1e-6, atol=1e-7)


# Random numbers


class PythonNoise(Linear):
    def forward(self, below, above):
        return super().forward(below * random.random(), above)


class NumpyNoise(Linear):
    def forward(self, below, above):
        return super().forward(below * np.random.standard_normal(), above)


@pytest.mark.parametrize("network", [PythonNoise, NumpyNoise])
def test_random_numbers_of_python_and_numpy_are_drawn_again(network):
    model = stack(network)
    grads, streams = [], []
    for reversible in (True, False):
        model.reversible = reversible
        random.seed(0), np.random.seed(0)
        model.train().zero_grad()
        loss_of(model(stem_output())).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
        streams.append((random.random(), np.random.standard_normal()))
    assert streams[0] == streams[1]
    for ours, plain in zip(*grads, strict=True):
        assert (ours - plain).abs().max() <= 1e-6 * plain.abs().max()


class OwnGenerator(Linear):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, below, above):
        noise = torch.rand(below.shape, generator=self.generator)
        return super().forward(below * noise, above)


class Counting(Linear):
    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, below, above):
        self.count += 1
        return super().forward(below * self.count, above)


@pytest.mark.parametrize("network", [OwnGenerator, Counting])
def test_a_network_that_cannot_repeat_itself_is_refused(network):
    loss = loss_of(stack(network).train()(stem_output()))
    with pytest.raises(RuntimeError, match=f"network {network.__name__} .* gave another output"):
        loss.backward()
    plain = stack(network, reversible=False).train()
    loss_of(plain(stem_output())).backward()


# What a network reads besides


class Conditioned(Linear):
    def forward(self, below, above, condition=None, scales=()):
        for scale in scales:
            below = below * scale
        return super().forward(below if condition is None else below * condition, above)


@pytest.mark.parametrize("keep_columns", [0, 1])
def test_tensors_in_level_kwargs_get_the_gradients_of_ordinary_autograd(keep_columns):
    model = stack(Conditioned, keep_columns=keep_columns).train()
    outer = nn.Linear(3, DIM)
    found = []
    for model.reversible in (True, False):
        scale = torch.full((DIM,), 1.5, requires_grad=True)
        kwargs = [{"condition": outer(torch.ones(3)), "scales": [scale, 2.0]}, {}]
        loss = loss_of(model(stem_output(), kwargs))
        inputs = [scale, *outer.parameters(), *model.parameters()]
        found.append(torch.autograd.grad(loss, inputs))
    for ours, plain in zip(*found, strict=True):
        assert plain.abs().max() > 0
        assert (ours - plain).abs().max() <= 1e-6 * plain.abs().max()


def test_level_kwargs_may_differ_from_column_to_column():
    model = stack(Conditioned)
    steps = [[{"condition": torch.tensor(1.0 + column)}, {}] for column in range(4)]
    assert max(gradient_difference(model, stem_output(), level_kwargs=steps).values()) <= 1e-6
    same = [[{"condition": torch.tensor(1.0)}, {}]] * 4
    outputs = [model.eval()(stem_output(), kwargs)[-1] for kwargs in (steps, same)]
    assert not torch.allclose(*outputs)


class Captured(Linear):
    """Reads a tensor of an outer layer behind the back of its level."""

    def forward(self, below, above):
        return super().forward(below * self.condition[0], above)


@pytest.mark.parametrize("keep_columns", [0, 1])
def test_a_trainable_tensor_that_a_network_captures_is_refused(keep_columns):
    model = stack(Captured, keep_columns=keep_columns).train()
    for column in model.columns:
        for level in column.levels:
            level.network.condition = [nn.Linear(3, DIM)(torch.ones(3))]
    with pytest.raises(RuntimeError, match=r"none of its parameters.*hand it over in level_kwargs"):
        model(stem_output())


def test_a_captured_tensor_that_is_replaced_before_backward_is_noticed():
    model = stack(Captured).train()

    def capture(value: float) -> None:
        for column in model.columns:
            for level in column.levels:
                level.network.condition = [torch.full((DIM,), value)]

    capture(1.0)
    loss = loss_of(model(stem_output()))
    capture(2.0)
    loss = loss + loss_of(model(stem_output()))
    with pytest.raises(RuntimeError, match="gave another output"):
        loss.backward()


# Mistakes


class ReturnsPair(Linear):
    def forward(self, below, above):
        return super().forward(below, above), None


class TakesNoAbove(Linear):
    def forward(self, below):
        return super().forward(below, None)


class OtherWidth(Linear):
    def forward(self, below, above):
        return super().forward(below, above)[..., :-1]


class OtherLength(Linear):
    def forward(self, below, above):
        return super().forward(below, None)[:, : below.shape[1] if above is None else -1]


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize(
    ("network", "error", "sentence"),
    [
        (ReturnsPair, TypeError, "must return one tensor.*ReturnsPair returned tuple"),
        (TakesNoAbove, TypeError, r"TakesNoAbove.forward does not take .*below, above"),
        (OtherWidth, ValueError, r"shape \(4, 8, 31\).* 32 channels in dimension -1"),
        (OtherLength, ValueError, "the previous column's state at this level has"),
    ],
)
def test_networks_that_do_not_fit_say_so(network, error, sentence, reversible):
    with pytest.raises(error, match=sentence):
        stack(network, reversible=reversible).train()(stem_output())


def test_unknown_keyword_arguments_say_so():
    with pytest.raises(TypeError, match=r"does not take what a level gives it .*: mask"):
        stack(Linear).train()(stem_output(), [{"mask": None}, {}])


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: RevCol([nn.Sequential(Linear())]), TypeError, "column 0 .* is a Sequential"),
        (lambda: RevCol([[Level(Linear(), 4)]]), TypeError, "column 0 of a RevCol is a list"),
        (lambda: Column([Linear()]), TypeError, "level 0 of a Column is a Linear: wrap"),
        (lambda: Column([]), ValueError, "at least 1 level"),
        (lambda: Level(torch.tanh, 4), TypeError, "network must be a torch module"),
        (lambda: Level(Linear(), (1, 4, 1, 1)), TypeError, "num_channels must be the number"),
        (lambda: Level(Linear(), 4, channel_dim=0), ValueError, "channel_dim 0 is the batch"),
        (
            lambda: RevCol([Column([Level(Linear(), 4)]), Column([Level(Linear(), 4)] * 2)]),
            ValueError,
            "column 0 has 1 and column 1 has 2",
        ),
        (
            lambda: RevCol([Column([Level(Linear(), 4)]), Column([Level(Linear(), 5)])]),
            ValueError,
            "the same channels",
        ),
    ],
)
def test_mistakes_are_caught_where_they_are_made(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


def test_samples_do_not_depend_on_their_batch_whatever_their_shape():
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, below, above):
            return torch.tanh(self.conv(below)) + (0 if above is None else above)

    torch.manual_seed(0)
    model = RevCol([Column(Level(Conv(), 4, channel_dim=1) for _ in range(2)) for _ in range(3)])
    images = torch.randn(3, 4, 6, 6)
    images[1:] *= 1000
    batch = model.train()(images)[-1][:1]
    alone = model(images[:1])[-1]
    torch.testing.assert_close(alone, batch, rtol=1e-6, atol=1e-6)


def test_torch_func_transforms_name_the_switch():
    model = build(2, revcol={"keep_columns": 0}).train()

    def loss(stem):
        return loss_of(model(stem))

    with pytest.raises(RuntimeError, match=r"torch.func .*set reversible=False"):
        torch.func.grad(loss)(stem_output())
    model.reversible = False
    found = torch.func.grad(loss)(stem_output())
    stem = stem_output().requires_grad_()
    (expected,) = torch.autograd.grad(loss(stem), [stem])
    torch.testing.assert_close(found, expected)


class StoresSquare(Linear):
    """An auxiliary loss, as of a mixture of experts."""

    def forward(self, below, above):
        y = super().forward(below, above)
        self.stored = y.square().mean()
        return y


class StoresMean(Linear):
    """Its graph needs no saved tensors, so that nothing but its leaves can tell."""

    def forward(self, below, above):
        self.stored = below.mean()
        return super().forward(below, above)


@pytest.mark.parametrize("network", [StoresSquare, StoresMean])
def test_a_loss_that_reads_what_a_rebuilt_network_stores_is_refused(network):
    model = stack(network).train()
    loss = loss_of(model(stem_output())) + model.columns[1].levels[1].network.stored
    with pytest.raises(RuntimeError, match=r"auxiliary loss.*set reversible=False"):
        loss.backward()
    model.reversible = False
    loss = loss_of(model(stem_output())) + model.columns[1].levels[1].network.stored
    loss.backward()
