"""verify: takes whole models, finds what is wrong, and leaves everything as it was."""

import pytest
import torch
from torch import nn

from revcol_nlp.columns import Column, Level, RevCol, gradient_difference
from revcol_nlp.columns.verify import count_held_bytes, describe_step
from tests.helpers.columns import DIM, build, stem_output


class Model(nn.Module):
    """A stem and a head around two stacks of columns."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(DIM, DIM), nn.BatchNorm1d(8))
        self.first = build(3, dropout=0.1)
        self.second = build(2)
        self.head = nn.Linear(DIM, 5)

    def forward(self, x, scale=None):
        x = self.second(self.first(self.stem(x))[-1])[-1]
        return {"logits": self.head(x if scale is None else x * scale), "sizes": [8]}


def test_a_whole_model_is_compared_leaf_by_leaf():
    model, scale = Model(), torch.ones(DIM)
    found = gradient_difference(model, stem_output(), scale=scale)
    names = {name for name, _ in model.named_parameters()}
    assert names < found.keys()
    assert sorted(found.keys() - names) == ["inputs.0", "inputs.1"]
    assert max(found.values()) <= 1e-6


def test_nothing_is_left_changed():
    model = Model().eval()
    model.first.reversible = False
    model.head.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    gradient_difference(model, stem_output())
    describe_step(model, stem_output())
    model.second.columns[1].levels[0].network.fusion = nn.Module()  # has no forward
    with pytest.raises(NotImplementedError):
        gradient_difference(model, stem_output())
    assert torch.equal(torch.get_rng_state(), stream)
    assert [model.training, model.head.training, model.first.reversible] == [False, True, False]
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_wrong_gradient_is_found():
    class Doubled(torch.autograd.Function):
        """Its gradient is wrong in the backward pass that rebuilds."""

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad if model.reversible else grad

    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(DIM, DIM)

        def forward(self, below, above):
            return Doubled.apply(self.linear(below))

    model = RevCol([Column([Level(Wrong(), DIM)]) for _ in range(3)])
    found = gradient_difference(model, stem_output())
    assert found["columns.0.levels.0.network.linear.weight"] > 0.1


def test_a_model_without_columns_is_refused():
    with pytest.raises(ValueError, match="Linear holds no RevCol"):
        gradient_difference(nn.Linear(2, 2), torch.ones(1, 2))


def test_a_step_is_described():
    model = build(8, gamma=1e-3, revcol={"keep_columns": 0})
    report = describe_step(model, stem_output().requires_grad_())
    assert (report.columns, report.keyframes) == (8, [[1, 3, 5, 7]])
    loss = lambda: sum(x.sum() for x in model.train()(stem_output().requires_grad_()))  # noqa: E731
    assert report.held_bytes == count_held_bytes(loss, list(model.parameters()))
    assert str(report).startswith("8 columns, states kept of columns 1, 3, 5, 7, ")


def test_places_that_a_loss_reads_are_held_and_nothing_else():
    model = build(6, revcol={"keep_columns": 0}).train()
    stem = stem_output().requires_grad_()
    parameters = list(model.parameters())

    def held(places) -> int:
        step = lambda: sum(x.square().sum() for x in model.forward_columns(stem, places).values())  # noqa: E731
        return count_held_bytes(step, parameters)

    state = 4 * stem.numel()  # float32, for the square
    assert held([(1, 2), (3, 0), (5, 3)]) == held([(5, 3)]) + 2 * state


def test_the_start_of_a_training_and_each_validation_are_logged_in_a_line(caplog):
    caplog.set_level("INFO", logger="revcol_nlp")
    model, stem = build(8, gamma=1e-3, revcol={"keep_columns": 0}), stem_output(length=256)
    with torch.no_grad():
        model.eval()(stem)
    for _ in range(2):
        for _ in range(3):
            model.train()(stem[:, :128])
        model.eval()(stem)
    # Keyframes are four columns of four levels of float64 states; the stem's output is float32.
    held = (4 * 4 * 8 + 4) * 4 * 128 * DIM / 2**20
    assert [record.message for record in caplog.records] == [
        f"8 of 8 columns are rebuilt in the backward pass, from {held:.1f} MiB: a stem output of "
        "(4, 128, 32), and the states of column 1, 3, 5, 7"
    ] * 2
