"""The isotropic layers against the formulas they stand for."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from revcol_nlp.columns import RevCol
from revcol_nlp.columns.attention import FeedForward
from revcol_nlp.columns.isotropic import (
    Block,
    DropPath,
    IsotropicConfig,
    LinearFusion,
    NormalizedAttention,
    build_isotropic_columns,
)
from revcol_nlp.columns.verify import compute_gradients, describe_step
from tests.helpers.columns import build, stem_output
from tests.helpers.exact import assert_bits_equal

CONFIG = IsotropicConfig(dim=16, num_heads=2, ffn_dim=32)


def test_attention_is_the_softmax_of_scaled_cosines():
    torch.manual_seed(0)
    attention = NormalizedAttention(16, 2)
    with torch.no_grad():
        # The second head's temperature is above the bound of 100.
        attention.logit_scale.copy_(torch.tensor([1.0, 7.0]).view(2, 1, 1))
    x = torch.randn(3, 5, 16)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 3:] = True

    q, k, v = (t.view(3, 5, 2, 8).transpose(1, 2) for t in attention.qkv(x).chunk(3, dim=-1))
    cosines = torch.einsum("bhqc,bhkc->bhqk", q, k) / torch.einsum(
        "bhq,bhk->bhqk", q.norm(dim=-1), k.norm(dim=-1)
    )
    logits = cosines * torch.tensor([math.e, 100.0]).view(1, 2, 1, 1)
    weights = logits.masked_fill(mask[:, None, None], -math.inf).softmax(-1)
    expected = attention.out_proj((weights @ v).transpose(1, 2).reshape(3, 5, 16))
    torch.testing.assert_close(attention(x, mask), expected, rtol=1e-4, atol=1e-5)


def test_attention_runs_in_one_fused_call(monkeypatch):
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: calls.append(k) or fused(*a, **k)
    )
    NormalizedAttention(16, 2, dropout=0.25).train()(torch.randn(1, 4, 16))
    assert [(c["scale"], c["dropout_p"]) for c in calls] == [(1.0, 0.25)]


def test_attention_does_not_depend_on_the_length_of_queries_and_keys():
    torch.manual_seed(0)
    attention = NormalizedAttention(16, 2)
    x = torch.randn(2, 4, 16)
    before = attention(x)
    with torch.no_grad():
        attention.qkv.weight[:32] *= 7
        attention.qkv.bias[:32] *= 7
    torch.testing.assert_close(attention(x), before, rtol=1e-4, atol=1e-5)


def test_blocks_normalise_the_branch_and_not_the_residual():
    torch.manual_seed(0)
    block = Block(CONFIG, drop_path=0.0)
    x = 100 * torch.randn(2, 4, 16)
    y = x + F.layer_norm(block.attention(x), (16,))
    torch.testing.assert_close(block(x), y + F.layer_norm(block.ffn(y), (16,)))


def test_fusion_is_the_sum_of_the_projected_inputs():
    torch.manual_seed(0)
    below, above = torch.randn(2, 2, 4, 16)
    fusion = LinearFusion(16, project_bottom_up=False, has_above=True)
    linear, norm = fusion.top_down
    torch.testing.assert_close(fusion(below, above), below + norm(linear(above)))
    assert torch.equal(
        LinearFusion(16, project_bottom_up=False, has_above=False)(below, None), below
    )
    both = LinearFusion(16, project_bottom_up=True, has_above=True)
    expected = both.bottom_up(below) + both.top_down(above)
    torch.testing.assert_close(both(below, above), expected)


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(2000, 3, 4)
    y = DropPath(0.25).train()(x)
    assert y.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert_bits_equal(y.amin((1, 2)), y.amax((1, 2)))
    assert y.mean() == pytest.approx(1, abs=0.05)
    assert_bits_equal(DropPath(0.25).eval()(x), x)


def test_branches_start_as_large_as_init_values_says():
    sizes = []
    for init_values in (0.2, 1.0):
        torch.manual_seed(0)
        block = Block(replace(CONFIG, init_values=init_values), drop_path=0.0)
        x = torch.randn(2, 5, 16)
        sizes.append((block(x) - x).std())
    assert sizes[0] < 0.5 * sizes[1]


def test_a_first_column_behind_another_is_refused():
    first, _ = build_isotropic_columns(replace(CONFIG, num_columns=2))
    with pytest.raises(ValueError, match="made as the first one"):
        RevCol([first, first])(torch.randn(1, 3, 16))


def test_stochastic_depth_grows_from_the_first_block_of_a_column_to_its_last():
    config = replace(CONFIG, num_columns=2, depths=(1, 2, 1, 1), drop_path_rate=0.4)
    for column in build_isotropic_columns(config):
        rates = [m.drop_prob for m in column.modules() if isinstance(m, DropPath)]
        assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_an_activation_that_is_recomputed_changes_memory_and_no_bits(autocast):
    held, grads = [], []
    for recompute in (False, True):
        model = build(3, dropout=0.1, activation_dropout=0.1, revcol={"keep_columns": 3})
        for module in model.modules():
            if isinstance(module, FeedForward):
                module.recompute_activation = recompute
        grads.append(
            compute_gradients(model, stem_output(), reversible=recompute, autocast=autocast)
        )
        held.append(describe_step(model, stem_output()).held_bytes)
    assert_bits_equal(*grads)
    hidden = 2 * stem_output().numel() * 4
    assert held[0] - held[1] >= 3 * 4 * hidden
