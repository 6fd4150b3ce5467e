"""The registered architectures: their sizes, their options, and what they refuse."""

import dataclasses
import math
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from fairseq.models import ARCH_MODEL_INV_REGISTRY
from fairseq.models.transformer import TransformerConfig

from revcol_nlp.columns import gradient_difference
from revcol_nlp.models.config import PRESETS, RevColTransformerConfig, fill_preset
from tests.helpers.transformers import build_model, build_small

# Millions of parameters, by the size of the joined dictionary.
PARAMETERS = {
    "revcol_transformer": (32768, 251.0),
    "revcol_transformer_wmt_en_de": (32768, 200.6),
    "revcol_transformer_wmt_en_fr": (44512, 209.6),
    "revcol_transformer_iwslt_de_en": (10000, 38.6),
    "revcol_transformer_tiny": (9712, 2.549),
}
TINY_SIZES = {"embed_dim": 128, "ffn_embed_dim": 256, "attention_heads": 4, "layers": 4}


def count_parameters(model) -> float:
    """Return the number of parameters of ``model`` in millions."""
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_every_architecture_is_listed_here():
    assert set(PARAMETERS) == set(PRESETS) == set(ARCH_MODEL_INV_REGISTRY["revcol_transformer"])


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameter_counts(arch):
    size, millions = PARAMETERS[arch]
    with torch.device("meta"):
        counted = count_parameters(build_model(arch, size))
    assert counted == pytest.approx(millions, abs=0.05 if millions > 10 else 0.0005)


def test_projecting_the_bottom_up_path_too_gives_the_counts_that_do_not_fit_the_paper():
    with torch.device("meta"):
        both = build_model("revcol_transformer_wmt_en_de", 32768, encoder_fusion="both")
    assert count_parameters(both) == pytest.approx(210.1, abs=0.05)


def test_tiny_is_no_larger_than_transformer_tiny():
    sizes = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in TINY_SIZES.items()}
    transformer = build_model("transformer", 9712, share_all_embeddings=True, **sizes)
    assert count_parameters(build_model("revcol_transformer_tiny", 9712)) <= count_parameters(
        transformer
    )


def test_a_preset_fills_in_missing_options_and_leaves_the_others():
    args = Namespace(dropout=0.7)
    fill_preset(args, PRESETS["revcol_transformer_wmt_en_de"])
    assert (args.dropout, args.share_all_embeddings, args.encoder_embed_dim) == (0.7, True, 768)
    before = vars(args).copy()
    fill_preset(args, PRESETS["revcol_transformer_tiny"])
    assert vars(args) == before


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_preset_is_its_differences_from_the_default(preset):
    defaults = {f.name: f.default for f in dataclasses.fields(RevColTransformerConfig)}
    assert all(defaults[name] != value for name, value in preset.items())


def test_options_reach_the_columns():
    model = build_small(
        encoder_columns=5,
        encoder_column_blocks="2,1,1,3",
        encoder_keep_columns=2,
        encoder_keyframe_budget=100.0,
        encoder_fusion="both",
        encoder_drop_path=0.2,
        dropout=0.3,
        attention_dropout=0.4,
        activation_dropout=0.6,
        activation_fn="gelu",
    )
    revcol = model.encoder.revcol
    assert (len(revcol.columns), revcol.reversible, revcol.keep_columns) == (5, True, 2)
    assert revcol.keyframe_budget == 100
    column = revcol.columns[1]
    assert [len(level.network.blocks) for level in column.levels] == [2, 1, 1, 3]
    block = column.levels[-1].network.blocks[-1]
    assert (block.dropout.p, block.drop_path.drop_prob, block.attention.dropout) == (0.3, 0.2, 0.4)
    assert (block.ffn.dropout.p, block.ffn.activation.__name__) == (0.6, "gelu")
    assert isinstance(column.levels[0].network.fusion.bottom_up, torch.nn.Sequential)


def test_columns_can_be_plain():
    assert not build_small(encoder_no_reversible=True).encoder.revcol.reversible


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"encoder_columns": 0}, "--encoder-columns must be at least 1, got 0"),
        ({"encoder_columns": -3}, "--encoder-columns must be at least 1, got -3"),
        ({"encoder_column_blocks": "1,1,1"}, "--encoder-column-blocks must be 4 .*, got '1,1,1'"),
        ({"encoder_column_blocks": "1,1,x,1"}, "--encoder-column-blocks must be 4 .*'1,1,x,1'"),
        ({"encoder_column_blocks": "1,0,1,1"}, "--encoder-column-blocks must be 4 .*'1,0,1,1'"),
        ({"encoder_embed_dim": 0}, "--encoder-embed-dim must be at least 1, got 0"),
        ({"encoder_attention_heads": 0}, "--encoder-attention-heads must be at least 1, got 0"),
        (
            {"encoder_attention_heads": 5},
            "--encoder-attention-heads 5 does not divide --encoder-embed-dim 32; change one",
        ),
        (
            {"decoder_attention_heads": 5},
            "--decoder-attention-heads 5 does not divide --decoder-embed-dim 32; change one",
        ),
        ({"decoder_input_dim": 0}, "--decoder-input-dim must be at least 1, got 0"),
        (
            {"encoder_keep_columns": 4},
            r"--encoder-keep-columns must be between 0 and --encoder-columns \(3\), got 4",
        ),
        ({"encoder_keep_columns": -1}, "--encoder-keep-columns must be between 0 and .*, got -1"),
        ({"encoder_keyframe_budget": 0.0}, "--encoder-keyframe-budget must be between 1 and 1e.06"),
        ({"encoder_keyframe_budget": 1e9}, "--encoder-keyframe-budget must be between 1 and 1e.06"),
        ({"encoder_keyframe_budget": math.nan}, "--encoder-keyframe-budget must be .*, got nan"),
        ({"encoder_drop_path": 1.0}, r"--encoder-drop-path must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"--dropout must be in \[0, 1\), got -0.1"),
        ({"relu_dropout": math.nan}, r"--relu-dropout must be in \[0, 1\), got nan"),
        ({"activation_fn": "sine"}, "--activation-fn must be one of relu, .*, got sine"),
        ({"encoder_colums": 2}, "has no option --encoder-colums; remove it"),
    ],
    ids=str,
)
def test_an_impossible_option_is_named_with_its_value_and_what_it_may_be(options, sentence):
    with pytest.raises(ValueError, match=f"{sentence}"):
        build_small(**options)


@pytest.mark.parametrize(
    "options", [{"encoder_keep_columns": 2}, {"encoder_keyframe_budget": 100.0}], ids=str
)
def test_options_of_reversible_columns_are_refused_where_columns_are_plain(options):
    ((name, value),) = options.items()
    option = "--" + name.replace("_", "-")
    sentence = f"{option} {value} has no effect with --encoder-no-reversible, .*; remove one of"
    with pytest.raises(ValueError, match=sentence):
        build_small(encoder_no_reversible=True, **options)


def test_sizes_have_no_upper_limit():
    with torch.device("meta"):
        wide = build_small(encoder_embed_dim=2_000_000, share_all_embeddings=False)
        deep = build_small(encoder_columns=1, encoder_column_blocks="1,1,1,1001")
    assert wide.encoder.embed_tokens.weight.shape == (100, 2_000_000)
    assert len(deep.encoder.revcol.columns[0].levels[3].network.blocks) == 1001


@pytest.mark.parametrize(
    "options",
    [
        {"encoder_layers": 6},
        {"encoder_layerdrop": 0.1},
        {"encoder_layers_to_keep": "0,1"},
        {"encoder_normalize_before": True},
        {"encoder_xformers_att_config": "{}"},
        {"quant_noise_pq": 0.1},
        {"quant_noise_scalar": 0.1},
        {"adaptive_input": True},
        {"no_cross_attention": True},
        {"char_inputs": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_columns_do_not_support_are_refused_with_the_reason(options):
    option = "--" + next(iter(options)).replace("_", "-")
    with pytest.raises(ValueError, match=f"^{option} does not work with columns: .*; remove it$"):
        build_small(**options)


def test_every_option_of_fairseqs_transformer_is_there_with_its_default():
    fairseq = {"dropout": 0.1, "max_source_positions": 1024, "decoder_layers": 6}
    for name, default in fairseq.items():
        assert RevColTransformerConfig.__dataclass_fields__[name].default == default
    nested = {"encoder", "decoder", "quant_noise", "_name"}
    flat = {f.name for f in dataclasses.fields(TransformerConfig)} - nested
    assert flat <= set(RevColTransformerConfig.__dataclass_fields__)


def test_embeddings_can_be_shared_or_separate():
    shared = build_small(share_all_embeddings=True)
    assert shared.encoder.embed_tokens is shared.decoder.embed_tokens
    assert shared.decoder.output_projection.weight is shared.decoder.embed_tokens.weight
    separate = build_small(share_all_embeddings=False)
    assert separate.encoder.embed_tokens is not separate.decoder.embed_tokens


def test_a_training_forward_does_not_ask_for_all_hiddens(monkeypatch):
    model = build_small().train()
    asked = []
    forward = model.encoder.forward
    monkeypatch.setattr(
        model.encoder,
        "forward",
        lambda *a, return_all_hiddens=False, **k: (
            asked.append(return_all_hiddens)
            or forward(*a, return_all_hiddens=return_all_hiddens, **k)
        ),
    )
    tokens = torch.randint(4, 100, (2, 7))
    model(tokens, torch.tensor([7, 7]), tokens)
    model(tokens, torch.tensor([7, 7]), tokens, return_all_hiddens=True)
    assert asked == [False, True]


def test_every_parameter_of_the_whole_model_gets_a_gradient():
    model = build_small(
        checkpoint_activations=True, encoder_learned_pos=True, layernorm_embedding=True
    )
    model.train()
    tokens = torch.randint(4, 100, (2, 7))
    logits, _ = model(tokens, torch.tensor([7, 7]), tokens)
    logits.logsumexp(-1).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_the_column_code_does_not_import_fairseq_or_timm():
    code = (
        "import sys, revcol_nlp, revcol_nlp.columns\n"
        "assert not {'fairseq', 'timm', 'torchvision', 'torch._dynamo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_gradients_of_the_whole_model_equal_ordinary_autograds() -> None:
    model = build_small(dropout=0.1)
    tokens = torch.randint(4, 90, (3, 9))
    tokens[1, 6:] = 1  # padding
    found = gradient_difference(model, tokens, None, tokens)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert max(found.values()) <= 1e-6
