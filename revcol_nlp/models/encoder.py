"""The RevCol encoder in fairseq's terms: embedding, padding, layouts, the output dictionary."""

from __future__ import annotations

import copy

import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase
from fairseq.modules import LayerNorm
from torch import Tensor, nn

from ..checkpoints.fingerprint import DictionaryFingerprint
from ..columns import Column, RevCol, build_isotropic_columns
from .config import build_isotropic_config


class RevColEncoder(TransformerEncoderBase):
    """Word embeddings and positions, then reversible columns (paper Appendix B.2).

    The stem (embedding, scale, positions, LayerNorm, dropout), the reordering for beam search and
    the limits on the length are fairseq's. Columns take the place of fairseq's layers, and a
    LayerNorm follows the last column.

    Args:
        cfg: what `build_transformer_config` returned; it is not changed.
        dictionary: the source dictionary.
        embed_tokens: its embedding table.

    Raises:
        ValueError: if ``--encoder-column-blocks`` is not a list of numbers, one per level.
    """

    def __init__(self, cfg: TransformerConfig, dictionary: Dictionary, embed_tokens: nn.Embedding):
        super().__init__(_remove_layers(cfg), dictionary, embed_tokens)
        self.cfg = cfg
        self.revcol = RevCol(
            self.build_columns(cfg),
            reversible=not cfg.encoder.no_reversible,
            keep_columns=cfg.encoder.keep_columns,
            keyframe_budget=cfg.encoder.keyframe_budget,
        )
        self.layer_norm = LayerNorm(embed_tokens.embedding_dim, export=cfg.export)
        self.dictionary_fingerprint = DictionaryFingerprint(dictionary, side="source")

    def build_columns(self, cfg: TransformerConfig) -> list[Column]:
        """Build the columns; a kind of encoder overrides it to have its own levels.

        Their states must be ``(B, T, C)``, with the width of the embedding as ``C``. The levels'
        networks get ``key_padding_mask``, ``(B, T)`` and true at padding, or ``None``.
        """
        return build_isotropic_columns(build_isotropic_config(cfg))

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        return_all_hiddens: bool = False,
        token_embeddings: Tensor | None = None,
    ) -> dict[str, list[Tensor]]:
        """Encode a batch.

        Args:
            src_tokens: ``(B, T)`` token indices, padded on either side.
            src_lengths: unused; the lengths follow from the padding.
            return_all_hiddens: also return the stem's output and every column's top level. In
                training this holds them in memory.
            token_embeddings: ``(B, T, C)``, used instead of the rows of the embedding table.

        Returns:
            fairseq's encoder output: ``encoder_out`` ``[(T, B, C)]``, ``encoder_padding_mask``
            ``[(B, T)]``, true at padding, ``encoder_embedding`` ``[(B, T, C)]``,
            ``encoder_states`` ``[(T, B, C), ...]``, ``src_lengths`` ``[(B, 1)]``.
        """
        padding_mask = src_tokens.eq(self.padding_idx)
        # Reading whether there is padding would make a GPU wait; there, the mask is always applied.
        has_padding = padding_mask.device.type != "cpu" or bool(padding_mask.any())
        stem_output, embedding = self.forward_embedding(src_tokens, token_embeddings)
        if has_padding:
            stem_output = stem_output.masked_fill(padding_mask.unsqueeze(-1), 0)

        mask = {"key_padding_mask": padding_mask if has_padding else None}
        first = 0 if return_all_hiddens else len(self.revcol.columns) - 1
        tops = [(column, -1) for column in range(first, len(self.revcol.columns))]
        states = self.revcol.forward_columns(stem_output, tops, [mask] * self.revcol.num_levels)
        hiddens = [stem_output, *states.values()]
        return {
            "encoder_out": [self.layer_norm(hiddens[-1]).transpose(0, 1)],
            "encoder_padding_mask": [padding_mask],
            "encoder_embedding": [embedding],
            "encoder_states": [x.transpose(0, 1) for x in hiddens] if return_all_hiddens else [],
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [padding_mask.logical_not().sum(dim=1, dtype=torch.int32)[:, None]],
        }

    def make_generation_fast_(self, retain_dropout: bool = False, **kwargs: object) -> None:
        """Prepare for generation; fairseq calls this.

        Raises:
            ValueError: if dropout shall stay on in generation, which columns do not support.
        """
        if retain_dropout:
            raise ValueError(
                "--retain-dropout does not reach the dropout inside columns; remove "
                "--retain-dropout"
            )


def _remove_layers(cfg: TransformerConfig) -> TransformerConfig:
    """Return a copy of ``cfg`` for which fairseq's encoder builds no layers."""
    cfg = copy.copy(cfg)
    cfg.encoder = copy.copy(cfg.encoder)
    cfg.encoder.layers = 0
    return cfg
