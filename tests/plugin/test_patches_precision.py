"""Half precision: the same recomputation under autocast, and --bf16 without a TPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from torch import Tensor, nn

import revcol_nlp.models  # noqa: F401 (installs the patches)
from tests.helpers.fairseq_commands import TINY_MODEL, TRAINING, RunFairseq
from tests.helpers.transformers import build_small


@pytest.mark.parametrize("option", ["checkpoint_activations", "offload_activations"])
def test_checkpointed_activations_are_computed_twice_alike_under_autocast(option: str) -> None:
    model, computed = build_small(dropout=0.1, **{option: True}).train(), []
    model.decoder.layers[0].fc2.register_forward_hook(lambda *call: computed.append(call[-1]))
    tokens = torch.arange(4, 11)[None]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens, None, tokens)[0].float().logsumexp(-1).sum()
    loss.backward()
    before, recomputed = computed
    assert before.dtype == torch.bfloat16
    torch.testing.assert_close(recomputed, before, rtol=0, atol=0)


class Doubles(nn.Module):
    """Notes the dtype in which each of its calls computes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dtypes = nn.Linear(4, 4), []

    def forward(self, number: Any = None, *, x: Tensor | None = None) -> Tensor:
        y = self.linear(x) if x is not None else self.linear.weight * number
        self.dtypes.append(y.dtype)
        return y


def test_a_checkpointed_module_takes_its_tensors_by_keyword() -> None:
    module = checkpoint_wrapper(Doubles())
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(x=torch.randn(2, 4, requires_grad=True)).float().sum()
    loss.backward()
    assert module.dtypes == [torch.bfloat16, torch.bfloat16]


def test_a_checkpointed_module_without_tensors_is_called_as_in_fairseq() -> None:
    assert torch.equal(checkpoint_wrapper(module := Doubles())(2), module.linear.weight * 2)


def test_bf16_trains_without_a_tpu(tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq) -> None:
    run_fairseq(
        *("train", toy_data, *TINY_MODEL, *TRAINING, "--bf16", "--max-update", "1"),
        *("--save-dir", tmp_path),
    )
    assert (tmp_path / "checkpoint_last.pt").exists()
