"""RevCol-ViT as a timm model: its size, its gradients and memory, its weights, its refusals.

``test_timm.py`` runs timm's own tests; here is what they do not look at.
"""

import subprocess
import sys

import pytest
import timm
import torch
from timm.models import get_model_args, group_parameters
from timm.optim import create_optimizer_v2
from torch.utils.flop_counter import FlopCounterMode

from revcol_nlp.columns.isotropic import Block, DropPath
from revcol_nlp.columns.verify import compare_gradients, count_held_bytes
from tests.helpers.revcol_vit import RANDOM, build, gradients, images

# Parameters, and multiply-accumulates of one image in millions.
SIZES = {
    "revcol_vit_small_patch16_224": (21_076_392, 4607),  # paper, Table 9: 16M, 4.6G
    "revcol_vit_base_patch16_224": (89_650_696, 18844),  # paper, Table 9: 67M, 18.8G
    "revcol_vit_base_col1_patch16_224": (58_133_800, 12216),
    "revcol_vit_base_col2_patch16_224": (59_175_592, 12418),
    "revcol_vit_base_col4_patch16_224": (61_259_176, 12823),
    "revcol_vit_base_col8_patch16_224": (65_426_344, 13632),
    "revcol_vit_tiny_patch4_32": (5_622_490, 377.1),
    "revcol_vit_pico_patch4_32": (1_185_018, 81.2),
    "test_revcol_vit": (231_072, 3.276),
}


def test_the_registered_models_are_those_listed_here():
    registered = {
        name
        for name in timm.list_models()
        if timm.models.model_entrypoint(name).__module__.startswith("vision.")
    }
    assert registered == set(SIZES)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_multiply_accumulates(name):
    parameters, macs = SIZES[name]
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        x = torch.empty(1, *model.default_cfg["input_size"])
    assert sum(p.numel() for p in model.parameters()) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() / 2e6 == pytest.approx(macs, rel=5e-4)


def test_figure_6_variants_have_32_blocks_of_the_width_of_b():
    for columns in (1, 2, 4, 8):
        with torch.device("meta"):
            model = timm.create_model(f"revcol_vit_base_col{columns}_patch16_224")
        assert len(model.revcol.columns) == columns
        assert sum(isinstance(m, Block) for m in model.modules()) == 32
        assert model.embed_dim == 384


def test_the_columns_are_the_papers():
    model = build(drop_path_rate=0.3, depths=(1, 1, 1, 2))
    for i, column in enumerate(model.revcol.columns):
        for index, level in enumerate(column.levels):
            fusion = level.network.fusion
            kinds = [type(layer).__name__ for layer in fusion.bottom_up]
            assert kinds == ["Linear", "LayerNorm"]
            assert (fusion.top_down is not None) == (i > 0 and index < 3)
            assert (level.gamma is not None) == (i > 0)
        rates = [m.drop_prob for m in column.modules() if isinstance(m, DropPath)]
        assert (rates[0], rates[-1]) == pytest.approx((0, 0.3))
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    assert len(blocks) == 15
    for block in blocks:
        assert (block.attention_norm.weight == 0.2).all() and (block.ffn_norm.weight == 0.2).all()


def test_the_head_pools_then_normalises_then_projects():
    model, x = build().eval(), images()
    top = model.revcol(model.patch_embed(x) + model.pos_embed)[-1]
    assert torch.equal(model.head(model.fc_norm(top.mean(1))), model(x))
    assert isinstance(model.fc_norm, torch.nn.LayerNorm)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_columns": 12, "keep_columns": 0},
        {"class_token": True, "reg_tokens": 2, "global_pool": "token", "patch_drop_rate": 0.5},
    ],
)
def test_gradients_equal_ordinary_autograd(options, autocast):
    model = build(**RANDOM, **options).train()
    rebuilt = gradients(model, images(), autocast)
    model.revcol.reversible = False
    found = compare_gradients(rebuilt, gradients(model, images(), autocast))
    assert max(found.values()) <= 1e-6


def test_no_bytes_are_held_for_another_column():
    held = []
    for columns in (3, 9):
        model = build(num_columns=columns).train()
        held.append(
            count_held_bytes(lambda model=model: model(images()).sum(), [*model.parameters()])
        )
    assert held[0] == held[1]


def test_grad_checkpointing_holds_less_and_changes_no_gradient():
    model = build(**RANDOM).train()
    step, parameters = (lambda: model(images()).sum()), list(model.parameters())
    plain, held = gradients(model, images()), count_held_bytes(step, parameters)
    model.set_grad_checkpointing()
    assert count_held_bytes(step, parameters) < held / 3
    assert max(compare_gradients(gradients(model, images()), plain).values()) <= 1e-6
    model.set_grad_checkpointing(False)
    assert count_held_bytes(step, parameters) == held


def test_layer_decay_grows_by_column_then_level():
    model = build()
    ids = group_parameters(model, model.group_matcher(), reverse=True)
    depths = [
        {ids[n] for n in ids if n.startswith(f"revcol.columns.{i}.levels.{level}.")}
        for i in range(3)
        for level in range(4)
    ]
    assert depths == [{n} for n in range(1, 13)]
    assert {ids["pos_embed"], ids["patch_embed.proj.weight"]} == {0}
    assert ids["head.weight"] > 12
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert sorted({d for n, d in coarse.items() if n.startswith("revcol")}) == [1, 2, 3]

    optimizer = create_optimizer_v2(model, "adamw", lr=1, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    gammas = [scale[id(level.gamma)] for level in model.revcol.columns[2].levels]
    assert gammas == [0.5**n for n in (4, 3, 2, 1)]


def test_temperatures_gammas_norms_and_positions_are_not_decayed():
    model = build(class_token=True)
    optimizer = create_optimizer_v2(model, "adamw", lr=1, weight_decay=0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {
        names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]
    }
    matrices = {n for n, p in model.named_parameters() if p.dim() in (2, 4)}
    assert decayed == matrices


def test_a_checkpoint_serves_another_size_and_other_classes(tmp_path):
    source = build()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = build(
        img_size=96,
        num_classes=3,
        pretrained=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path / "weights.pth"), num_classes=7),
    )
    assert model.pos_embed.shape == (1, 36, 32)
    assert torch.equal(
        model.revcol.columns[2].levels[3].gamma, source.revcol.columns[2].levels[3].gamma
    )
    assert model.eval()(images(size=96)).shape == (4, 3)

    source.set_input_size(img_size=96)
    torch.testing.assert_close(source.pos_embed, model.pos_embed)


def test_dynamic_image_size_equals_the_fixed_one_at_its_own_size():
    dynamic = build(dynamic_img_size=True, dynamic_img_pad=True).eval()
    assert torch.equal(dynamic(images()), build().eval()(images()))
    assert dynamic(torch.randn(2, 3, 50, 90)).shape == (2, 7)


def test_plain_and_reversible_share_weights_and_outputs():
    a, b = build().eval(), build(reversible=False, keep_columns=0).eval()
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(images()), b(images()))
    with torch.no_grad():
        assert torch.equal(a(images()), b(images()))


@pytest.mark.parametrize(
    "options, error, sentence",
    [
        ({"pretrained": True}, RuntimeError, "No pretrained weights exist for test_revcol_vit"),
        ({"depth": 12}, TypeError, "depth"),
        ({"qk_norm": True}, TypeError, "qk_norm"),
        ({"depths": (1, 1)}, ValueError, "4 numbers, one for each"),
        ({"num_columns": 0}, ValueError, "columns must be at least 1"),
        ({"keep_columns": 4}, ValueError, "keep_columns must be between 0"),
        ({"num_heads": 5}, ValueError, "5 heads do not divide 32"),
    ],
)
def test_impossible_models_are_refused(options, error, sentence):
    with pytest.raises(error, match=sentence):
        build(**options)


def test_a_model_with_another_head_can_be_made_again_from_its_arguments():
    model = build(class_token=True)
    model.reset_classifier(5, "token")  # the norm stays after the pooling
    model.set_input_size(img_size=96)
    again = timm.create_model("test_revcol_vit", **get_model_args(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images(size=96)), again.eval()(images(size=96)))


def test_init_weights_starts_anew():
    model = build()
    with torch.device("meta"):
        empty = build().to_empty(device="cpu")
    for started in (model, empty):
        torch.manual_seed(3)
        started.init_weights()
    assert all(map(torch.equal, model.state_dict().values(), empty.state_dict().values()))
    assert (model.revcol.columns[1].levels[0].gamma == 0.5).all()
    block = model.revcol.columns[0].levels[0].network.blocks[0]
    assert block.ffn.fc1.weight.abs().max().item() == pytest.approx(
        (6 / (32 + 128)) ** 0.5, rel=0.01
    )


def test_import_needs_no_fairseq():
    code = """
import sys
sys.modules["fairseq"] = None  # any import of it fails
import timm, torch, vision
model = timm.create_model("test_revcol_vit").train()
model(torch.randn(2, 3, 64, 64)).sum().backward()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
