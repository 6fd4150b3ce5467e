"""Options and presets of the RevCol-Transformer; its defaults are defined here only.

``fairseq-hydra-train`` reads a model's options from a flat dataclass (``encoder_embed_dim``), but
fairseq's own ``TransformerConfig`` is nested (``encoder.embed_dim``), and fairseq ignores options
of a dataclass that derives from it. So `RevColTransformerConfig` is a flattened copy, made from the
fields of ``TransformerConfig``, with the options of the columns added.

The way of the options through this file, from top to bottom: fairseq fills the flat dataclass, with
the help of a preset (`PRESETS`, `fill_preset`). `build_transformer_config` checks the values and
nests them for fairseq's modules. `build_isotropic_config` takes the encoder's part of that for the
columns.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models.transformer.transformer_config import (
    DecoderConfig,
    EncDecBaseConfig,
    QuantNoiseConfig,
    TransformerConfig,
)
from omegaconf import DictConfig

from ..columns.isotropic import IsotropicConfig
from ..columns.stack import KEEP_COLUMNS, KEYFRAME_BUDGET

# The options


@dataclass
class ColumnOptions(FairseqDataclass):
    """Options added to those of fairseq's transformer."""

    encoder_columns: int = field(
        default=IsotropicConfig.num_columns, metadata={"help": "number of columns in the encoder"}
    )
    encoder_column_blocks: str = field(
        default=",".join(map(str, IsotropicConfig.depths)),
        metadata={
            "help": "number of transformer blocks in each level of a column, from the bottom to "
            "the top, separated by commas"
        },
    )
    encoder_no_reversible: bool = field(
        default=False,
        metadata={
            "help": "keep the activations of all columns in training, as an ordinary encoder does: "
            "a step takes less time, memory grows with the number of columns, gradients stay the "
            "same"
        },
    )
    encoder_keep_columns: int = field(
        default=KEEP_COLUMNS,
        metadata={
            "help": "number of columns, counted from the last, that keep their activations in "
            "training; a higher number takes more memory and less time"
        },
    )
    encoder_keyframe_budget: float = field(
        default=KEYFRAME_BUDGET,
        metadata={
            "help": "factor by which rounding errors may grow while columns are rebuilt, from 1 to "
            f"{KEYFRAME_BUDGET:g}; where they would grow further, the states of one more column "
            "are kept"
        },
    )
    encoder_fusion: ChoiceEnum(["top-down", "both"]) = field(
        default="top-down",
        metadata={
            "help": "inputs of a level that pass through a Linear and a LayerNorm: top-down for "
            "the input from the previous column only, both for the one from the level below, too"
        },
    )
    encoder_drop_path: float = field(
        default=0.0,
        metadata={
            "help": "stochastic depth: probability of skipping a residual branch for a whole "
            "sentence, in the last block of a column; it grows linearly from 0 in the first block"
        },
    )
    init_decoder_from: Optional[str] = field(  # noqa: UP045 (fairseq looks for this spelling)
        default=None,
        metadata={
            "help": "checkpoint of a fairseq transformer or a RevCol-Transformer; a new training "
            "starts with its decoder and embeddings. Resuming the training, or loading its model, "
            "does not read the file"
        },
    )


# Table 10 of the paper: the RevCol-Transformer. These are the defaults.
TABLE_10 = {
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    # Columns take the place of fairseq's encoder layers.
    "encoder_layers": None,
    "decoder_embed_dim": 768,
    "decoder_ffn_embed_dim": 3072,
    "decoder_attention_heads": 12,
    # None stands for decoder_embed_dim; fairseq's default refers to its nested form.
    "decoder_input_dim": None,
    "decoder_output_dim": None,
}

_NESTED = {"encoder": EncDecBaseConfig, "decoder": DecoderConfig, "quant_noise": QuantNoiseConfig}
_OPTIONAL = dict.fromkeys(
    ("encoder_layers", "decoder_input_dim", "decoder_output_dim"),
    Optional[int],  # noqa: UP045 (fairseq looks for this spelling)
)


def _flatten_fields(config: type, prefix: str = "") -> Iterator[tuple[str, type, Any]]:
    """Yield name, type and field of each option of ``config`` and of the configs inside it."""
    for f in fields(config):
        name = prefix + f.name
        if f.name in _NESTED:
            yield from _flatten_fields(_NESTED[f.name], name + "_")
        elif not f.name.startswith("_"):
            default = TABLE_10.get(name, f.default)
            kind = _OPTIONAL.get(name, f.type)
            yield name, kind, field(default=default, metadata=f.metadata)


RevColTransformerConfig = make_dataclass(
    "RevColTransformerConfig",
    list(_flatten_fields(TransformerConfig)),
    bases=(ColumnOptions,),
    namespace={
        "__module__": __name__,
        "__doc__": "fairseq's TransformerConfig, flat, with `ColumnOptions`; defaults: Table 10.",
    },
)

# A preset holds its differences from the defaults only. Its name is that of an architecture.
PRESETS: dict[str, dict[str, Any]] = {
    "revcol_transformer": {},
    # As the paper trains them, following Ott et al. (2018): one embedding table for all.
    "revcol_transformer_wmt_en_de": {"share_all_embeddings": True, "dropout": 0.3},
    "revcol_transformer_wmt_en_fr": {"share_all_embeddings": True},
    "revcol_transformer_iwslt_de_en": {
        "encoder_embed_dim": 384,
        "encoder_ffn_embed_dim": 768,
        "encoder_attention_heads": 6,
        "decoder_embed_dim": 384,
        "decoder_ffn_embed_dim": 768,
        "decoder_attention_heads": 6,
        "share_decoder_input_output_embed": True,
        "dropout": 0.3,
    },
    "revcol_transformer_tiny": {
        "encoder_embed_dim": 112,
        "encoder_ffn_embed_dim": 224,
        "encoder_attention_heads": 4,
        "encoder_columns": 2,
        "decoder_embed_dim": 112,
        "decoder_ffn_embed_dim": 224,
        "decoder_attention_heads": 4,
        "decoder_layers": 4,
        "share_all_embeddings": True,
        "dropout": 0.3,
    },
}


def fill_preset(cfg: Namespace | DictConfig, preset: Mapping[str, Any]) -> None:
    """Set each option that ``cfg`` lacks to its value in ``preset``, or else to its default.

    Options that ``cfg`` has keep their values, so a second call changes nothing.
    """
    for f in fields(RevColTransformerConfig):
        if not f.name.startswith("_") and not hasattr(cfg, f.name):
            setattr(cfg, f.name, preset.get(f.name, f.default))


# From the flat options to fairseq's nested ones

# Options of fairseq's transformer that columns cannot support, and the reason.
UNSUPPORTED = {
    "encoder_layers": "the encoder's depth is --encoder-columns times --encoder-column-blocks",
    "encoder_layerdrop": "every column is needed to rebuild the one before it",
    "encoder_layers_to_keep": "every column is needed to rebuild the one before it",
    "encoder_normalize_before": "the blocks of a column have residual post-norm",
    "encoder_xformers_att_config": "the encoder's attention is always normalised attention",
    "quant_noise_pq": "a column must compute the same result twice, with the same weights",
    "quant_noise_pq_block_size": "a column must compute the same result twice, with the same "
    "weights",
    "quant_noise_scalar": "a column must compute the same result twice, with the same weights",
    "adaptive_input": "the encoder has a single embedding table",
    "no_cross_attention": "the decoder would not read the encoder's output",
    "char_inputs": "no part of the model reads it",
}

# Options that only reversible columns read.
REVERSIBLE_ONLY = ("encoder_keep_columns", "encoder_keyframe_budget")

AT_LEAST_ONE = (
    "encoder_columns",
    "encoder_embed_dim",
    "encoder_ffn_embed_dim",
    "encoder_attention_heads",
    "decoder_layers",
    "decoder_embed_dim",
    "decoder_ffn_embed_dim",
    "decoder_attention_heads",
    "decoder_input_dim",
    "decoder_output_dim",
    "max_source_positions",
    "max_target_positions",
)

PROBABILITIES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "relu_dropout",
    "encoder_drop_path",
    "decoder_layerdrop",
)


def build_transformer_config(cfg: Mapping[str, Any]) -> TransformerConfig:
    """Check the flat options ``cfg`` and nest them as fairseq's modules read them.

    The options of the columns are nested, too: ``cfg.encoder.columns`` and so on. ``cfg`` is not
    changed.

    Raises:
        ValueError: if an option is unknown, impossible, or without effect. The message names it.
    """
    defaults = {f.name: f.default for f in fields(RevColTransformerConfig)}
    unknown = sorted(set(cfg) - set(defaults) - {"arch"})
    if unknown:
        names = ", ".join(map(_format_option, unknown))
        raise ValueError(f"the RevCol-Transformer has no option {names}; remove it")
    for name, reason in UNSUPPORTED.items():
        if cfg[name] != defaults[name]:
            option = _format_option(name)
            raise ValueError(f"{option} does not work with columns: {reason}; remove it")
    if cfg["encoder_no_reversible"]:
        for name in REVERSIBLE_ONLY:
            if cfg[name] != defaults[name]:
                raise ValueError(
                    f"{_format_option(name)} {cfg[name]} has no effect with "
                    "--encoder-no-reversible, which keeps the activations of all columns; remove "
                    "one of the two"
                )
    cfg = dict(cfg)
    for name in ("decoder_input_dim", "decoder_output_dim"):
        if cfg[name] is None:
            cfg[name] = cfg["decoder_embed_dim"]
    _check_values(cfg)
    return TransformerConfig.from_namespace(Namespace(**cfg))


def _check_values(cfg: Mapping[str, Any]) -> None:
    """Raise ValueError for values that no model can have, where fairseq would fail later on."""
    for name in AT_LEAST_ONE:
        _require(cfg, name, cfg[name] >= 1, "at least 1")
    for name in PROBABILITIES:
        _require(cfg, name, 0 <= cfg[name] < 1, "in [0, 1)")
    for side in ("encoder", "decoder"):
        heads, dim = cfg[f"{side}_attention_heads"], cfg[f"{side}_embed_dim"]
        if dim % heads:
            raise ValueError(
                f"--{side}-attention-heads {heads} does not divide --{side}-embed-dim {dim}; "
                "change one of the two"
            )
    columns, kept = cfg["encoder_columns"], cfg["encoder_keep_columns"]
    most = f"between 0 and --encoder-columns ({columns})"
    _require(cfg, "encoder_keep_columns", 0 <= kept <= columns, most)
    _require(
        cfg,
        "encoder_keyframe_budget",
        1 <= cfg["encoder_keyframe_budget"] <= KEYFRAME_BUDGET,
        f"between 1 and {KEYFRAME_BUDGET:g} (gradients are no longer exact above it)",
    )
    known = utils.get_available_activation_fns()
    _require(cfg, "activation_fn", cfg["activation_fn"] in known, f"one of {', '.join(known)}")


def _require(cfg: Mapping[str, Any], name: str, is_met: bool, requirement: str) -> None:
    if not is_met:
        raise ValueError(f"{_format_option(name)} must be {requirement}, got {cfg[name]}")


def _format_option(name: str) -> str:
    return "--" + name.replace("_", "-")


# From fairseq's nested options to those of the columns


def build_isotropic_config(cfg: TransformerConfig) -> IsotropicConfig:
    """Return the sizes of the encoder's columns, from what `build_transformer_config` returned.

    Raises:
        ValueError: if ``--encoder-column-blocks`` is not a list of numbers, one per level.
    """
    encoder = cfg.encoder
    return IsotropicConfig(
        dim=encoder.embed_dim,
        num_heads=encoder.attention_heads,
        ffn_dim=encoder.ffn_embed_dim,
        num_columns=encoder.columns,
        depths=_parse_depths(encoder.column_blocks),
        project_bottom_up=encoder.fusion == "both",
        activation=utils.get_activation_fn(cfg.activation_fn),
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout or cfg.relu_dropout,
        drop_path_rate=encoder.drop_path,
    )


def _parse_depths(column_blocks: str) -> tuple[int, ...]:
    """Read ``--encoder-column-blocks``, such as ``1,1,1,1``: the number of blocks per level."""
    num_levels = len(IsotropicConfig.depths)
    try:
        depths = tuple(int(number) for number in column_blocks.split(","))
    except ValueError:
        depths = ()
    if len(depths) != num_levels or min(depths) < 1:
        raise ValueError(
            f"--encoder-column-blocks must be {num_levels} whole numbers of at least 1, one per "
            f"level, such as {ColumnOptions.encoder_column_blocks}, got {column_blocks!r}"
        )
    return depths
