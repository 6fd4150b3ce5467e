"""torch.compile of models with columns, and tensors without values."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.helpers.columns import build, largest_difference, loss_of, stem_output


class Model(nn.Module):
    """A stem, columns and a head, as models have them."""

    def __init__(self, **revcol):
        super().__init__()
        self.revcol = build(3, dropout=0.1, revcol=revcol)
        self.stem = nn.Linear(32, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.revcol(self.stem(x))[-1])


def gradients(model: nn.Module, run) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    torch.manual_seed(0)
    loss_of([run(stem_output())]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("reversible", [True, False])
def test_a_compiled_model_trains_with_the_gradients_of_eager(reversible, backend):
    torch.manual_seed(1)
    model = Model(reversible=reversible)
    eager = gradients(model, model)
    compiled = gradients(model, torch.compile(model, backend=backend))
    # Another backend may round otherwise, and columns amplify what is rounded.
    assert largest_difference(compiled, eager) <= 1e-4
    model.compile(backend=backend)
    assert largest_difference(gradients(model, model), eager) <= 1e-4


def test_a_compiled_model_evaluates_in_one_graph():
    model = Model().eval()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(stem_output()), model(stem_output()))


def test_compiling_levels_leaves_torchs_settings_alone():
    before = torch._dynamo.config.recompile_limit
    model = build(3)
    model.compile_levels(backend="eager")
    loss_of(model.train()(stem_output())).backward()
    assert torch._dynamo.config.recompile_limit == before


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("keep_columns", [0, 1])
def test_a_training_step_reads_no_values_off_the_device(keep_columns, device):
    """A fake tensor has none: reading one fails. (torch goes backward on a real GPU only.)"""
    with FakeTensorMode(), torch.device(device):
        model = build(4, dropout=0.1, revcol={"keep_columns": keep_columns}).train()
        stem = torch.empty(4, 8, 32, requires_grad=True)
        loss = model(stem)[-1].square().sum()
        assert loss.device.type == device
        if device == "cpu":
            loss.backward()
            assert all(p.grad is not None for p in [stem, *model.parameters()])
