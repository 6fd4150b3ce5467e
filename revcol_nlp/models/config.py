"""Options of the RevCol-Transformer: the one home of its defaults, and the presets.

fairseq reads a model's options from a flat dataclass. This one is fairseq's ``TransformerConfig``,
flattened, with the column options added. A preset holds only what it changes.
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

NUM_LEVELS = len(IsotropicConfig.depths)


@dataclass
class ColumnOptions(FairseqDataclass):
    """What the RevCol-Transformer has and fairseq's transformer has not."""

    encoder_columns: int = field(
        default=IsotropicConfig.num_columns, metadata={"help": "number of columns in the encoder"}
    )
    encoder_column_blocks: str = field(
        default=",".join(map(str, IsotropicConfig.depths)),
        metadata={"help": "blocks in each level of a column, bottom to top"},
    )
    encoder_no_reversible: bool = field(
        default=False,
        metadata={"help": "keep all activations in training, as an ordinary encoder does"},
    )
    encoder_keep_columns: int = field(
        default=KEEP_COLUMNS,
        metadata={"help": "how many of the last columns keep their activations: memory for time"},
    )
    encoder_keyframe_budget: float = field(
        default=KEYFRAME_BUDGET,
        metadata={"help": "growth of rounding errors at which a column's states are kept"},
    )
    encoder_fusion: ChoiceEnum(["top-down", "both"]) = field(
        default="top-down",
        metadata={
            "help": "which inputs of a level are projected (Linear, LayerNorm): the one from the "
            "previous column only, or the one from the level below too"
        },
    )
    encoder_drop_path: float = field(
        default=0.0,
        metadata={
            "help": "probability of skipping a residual branch for a whole sentence, in the last "
            "block of a column; it grows from 0 at the first"
        },
    )
    init_decoder_from: Optional[str] = field(  # noqa: UP045 (fairseq looks for this spelling)
        default=None,
        metadata={
            "help": "checkpoint of a fairseq transformer whose decoder and embeddings the training "
            "begins with; what resumes it or loads its model does not read the file"
        },
    )


# Table 10: the RevCol-Transformer.
TABLE_10 = {
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "encoder_layers": None,
    "decoder_embed_dim": 768,
    "decoder_ffn_embed_dim": 3072,
    "decoder_attention_heads": 12,
    # fairseq's interpolates from its nested form; here None stands for decoder_embed_dim.
    "decoder_input_dim": None,
    "decoder_output_dim": None,
}

# Options of fairseq's transformer that columns have no use for, and why.
UNSUPPORTED = {
    "encoder_layers": "the encoder's depth is --encoder-columns times --encoder-column-blocks",
    "encoder_layerdrop": "every column is needed to rebuild the one before it",
    "encoder_layers_to_keep": "every column is needed to rebuild the one before it",
    "encoder_normalize_before": "the blocks of a column are residual-post-norm",
    "encoder_xformers_att_config": "the encoder's attention is normalised attention",
    "quant_noise_pq": "a column must compute the same twice, with the same weights",
    "quant_noise_pq_block_size": "a column must compute the same twice, with the same weights",
    "quant_noise_scalar": "a column must compute the same twice, with the same weights",
    "adaptive_input": "the stem is one embedding table",
    "no_cross_attention": "the decoder would not read the encoder at all",
    "char_inputs": "nothing reads it",
}

# Sizes beyond these are slips of the keyboard, which would fill the memory or never be built.
LARGEST = dict.fromkeys(("encoder_columns", "decoder_layers"), 1_000)
LARGEST |= dict.fromkeys(
    (
        *("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
        *("decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_attention_heads"),
        *("decoder_input_dim", "decoder_output_dim"),
        *("max_source_positions", "max_target_positions"),
    ),
    1_000_000,
)
PROBABILITIES = ("decoder_layerdrop", "dropout", "attention_dropout", "activation_dropout")
PROBABILITIES += ("relu_dropout", "encoder_drop_path")

_NESTED = {"encoder": EncDecBaseConfig, "decoder": DecoderConfig, "quant_noise": QuantNoiseConfig}
_OPTIONAL = dict.fromkeys(
    ("encoder_layers", "decoder_input_dim", "decoder_output_dim"),
    Optional[int],  # noqa: UP045 (fairseq looks for this spelling)
)


def _flat(config: type, prefix: str = "") -> Iterator[tuple[str, type, Any]]:
    for f in fields(config):
        name = prefix + f.name
        if f.name in _NESTED:
            yield from _flat(_NESTED[f.name], name + "_")
        elif not f.name.startswith("_"):
            default = TABLE_10.get(name, f.default)
            kind = _OPTIONAL.get(name, f.type)
            yield name, kind, field(default=default, metadata=f.metadata)


RevColTransformerConfig = make_dataclass(
    "RevColTransformerConfig",
    list(_flat(TransformerConfig)),
    bases=(ColumnOptions,),
    namespace={
        "__module__": __name__,
        "__doc__": "fairseq's TransformerConfig, flat, with `ColumnOptions`; defaults: Table 10.",
    },
)


def fill_preset(cfg: Namespace | DictConfig, preset: Mapping[str, Any]) -> None:
    """Fill what ``cfg`` lacks, from ``preset`` and then from the defaults; assign nothing twice."""
    for f in fields(RevColTransformerConfig):
        if not f.name.startswith("_") and not hasattr(cfg, f.name):
            setattr(cfg, f.name, preset.get(f.name, f.default))


def transformer_config(cfg: Mapping[str, Any]) -> TransformerConfig:
    """The nested config that fairseq's modules read, with ``cfg.encoder.columns`` and so on.

    Raises:
        ValueError: for an option that no part of the model would read.
    """
    defaults = {f.name: f.default for f in fields(RevColTransformerConfig)}
    unknown = sorted(set(cfg) - set(defaults) - {"arch"})
    if unknown:
        raise ValueError(f"the RevCol-Transformer has no option {', '.join(unknown)}")
    for name, reason in UNSUPPORTED.items():
        if cfg[name] != defaults[name]:
            raise ValueError(f"{_option(name)} does not work with columns: {reason}; remove it")
    cfg = dict(cfg)
    for name in ("decoder_input_dim", "decoder_output_dim"):
        cfg[name] = cfg[name] or cfg["decoder_embed_dim"]
    _check_values(cfg)
    return TransformerConfig.from_namespace(Namespace(**cfg))


def _check_values(cfg: Mapping[str, Any]) -> None:
    # fairseq's decoder divides by zero, or asks for all the memory there is.
    for name, most in LARGEST.items():
        if not 1 <= cfg[name] <= most:
            bound = "at least 1" if cfg[name] < 1 else f"at most {most}"
            raise ValueError(f"{_option(name)} must be {bound}, got {cfg[name]}")
    for name in PROBABILITIES:
        if not 0 <= cfg[name] < 1:
            raise ValueError(f"{_option(name)} must be in [0, 1), got {cfg[name]}")
    if cfg["decoder_embed_dim"] % cfg["decoder_attention_heads"]:
        heads, dim = cfg["decoder_attention_heads"], cfg["decoder_embed_dim"]
        raise ValueError(
            f"--decoder-attention-heads {heads} do not divide --decoder-embed-dim {dim}"
        )
    if cfg["activation_fn"] not in utils.get_available_activation_fns():
        raise ValueError(
            f"--activation-fn {cfg['activation_fn']} is none of "
            f"{', '.join(utils.get_available_activation_fns())}"
        )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def isotropic_config(cfg: TransformerConfig) -> IsotropicConfig:
    """The columns that ``cfg`` asks for.

    Raises:
        ValueError: if they are impossible.
    """
    encoder = cfg.encoder
    try:
        depths = tuple(int(n) for n in encoder.column_blocks.split(","))
    except ValueError:
        depths = ()
    if len(depths) != NUM_LEVELS or max(depths) > LARGEST["encoder_columns"]:
        raise ValueError(
            f"--encoder-column-blocks takes {NUM_LEVELS} whole numbers from 1 to "
            f"{LARGEST['encoder_columns']}, one per level, such as "
            f"{ColumnOptions.encoder_column_blocks}; got {encoder.column_blocks!r}"
        )
    return IsotropicConfig(
        dim=encoder.embed_dim,
        num_heads=encoder.attention_heads,
        ffn_dim=encoder.ffn_embed_dim,
        num_columns=encoder.columns,
        depths=depths,
        project_bottom_up=encoder.fusion == "both",
        activation=utils.get_activation_fn(cfg.activation_fn),
        dropout=cfg.dropout,
        attention_dropout=cfg.attention_dropout,
        activation_dropout=cfg.activation_dropout or cfg.relu_dropout,
        drop_path_rate=encoder.drop_path,
    )


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
