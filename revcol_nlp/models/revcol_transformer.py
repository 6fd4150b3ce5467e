"""``--arch revcol_transformer`` and its presets: fairseq finds this file through ``--user-dir``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Any

from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerModelBase,
)
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..config import PRESETS, RevColTransformerConfig, fill_preset, transformer_config
from ..encoder import RevColEncoder
from ..fingerprint import DictionaryFingerprint


@register_model("revcol_transformer", dataclass=RevColTransformerConfig)
class RevColTransformerModel(TransformerModelBase):
    """The RevCol-Transformer (Appendix B.2): a RevCol encoder and fairseq's transformer decoder."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        # Without defaults, so that a preset can tell what the command line left open.
        gen_parser_from_dataclass(parser, RevColTransformerConfig(), delete_default=True)

    @classmethod
    def build_model(cls, cfg: Namespace | DictConfig, task: FairseqTask) -> RevColTransformerModel:
        flat = vars(cfg)
        if OmegaConf.is_config(cfg):
            flat = OmegaConf.to_container(cfg, enum_to_str=True)
        return super().build_model(transformer_config(flat), task)

    @classmethod
    def build_encoder(
        cls, cfg: TransformerConfig, src_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> RevColEncoder:
        return RevColEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(
        cls, cfg: TransformerConfig, tgt_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> TransformerDecoderBase:
        decoder = super().build_decoder(cfg, tgt_dict, embed_tokens)
        decoder.dictionary_fingerprint = DictionaryFingerprint(tgt_dict, side="target")
        return decoder

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None,
        prev_output_tokens: Tensor,
        return_all_hiddens: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """As in fairseq, but the encoder's hiddens are returned only when asked for.

        fairseq asks by default, and returning a column's states in training means keeping them.
        """
        return super().forward(
            src_tokens, src_lengths, prev_output_tokens, return_all_hiddens, **kwargs
        )


for _name, _preset in PRESETS.items():
    if _name != "revcol_transformer":
        register_model_architecture("revcol_transformer", _name)(
            partial(fill_preset, preset=_preset)
        )
