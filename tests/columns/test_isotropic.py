"""The isotropic layers against the formulas they stand for."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from revcol_nlp.columns.isotropic import (
    Block,
    DropPath,
    IsotropicConfig,
    LinearFusion,
    NormalizedAttention,
    build_isotropic_columns,
)
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
    fusion = LinearFusion(16, project_bottom_up=False, top_down=True)
    linear, norm = fusion.top_down
    torch.testing.assert_close(fusion(below, above), below + norm(linear(above)))
    passed_on = LinearFusion(16, project_bottom_up=False, top_down=False)(below, None)
    assert_bits_equal(passed_on, below)
    both = LinearFusion(16, project_bottom_up=True, top_down=True)
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


def test_the_last_linear_of_a_feed_forward_network_starts_smaller_with_depth():
    torch.manual_seed(0)
    columns = build_isotropic_columns(
        IsotropicConfig(dim=64, num_heads=2, ffn_dim=128, num_columns=2)
    )
    blocks = [m for c in columns for m in c.modules() if isinstance(m, Block)]
    sizes = [block.ffn.fc2.weight.std().item() for block in blocks]
    for depth, size in enumerate(sizes, start=1):
        assert size == pytest.approx(sizes[0] / math.sqrt(depth), rel=0.05)


def test_stochastic_depth_grows_from_the_first_block_of_a_column_to_its_last():
    config = replace(CONFIG, num_columns=2, depths=(1, 2, 1, 1), drop_path_rate=0.4)
    for column in build_isotropic_columns(config):
        rates = [m.drop_prob for m in column.modules() if isinstance(m, DropPath)]
        assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
