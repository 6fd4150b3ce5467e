"""The RevCol encoder in fairseq's terms: embedding, padding, layouts, the output dictionary."""

from __future__ import annotations

import torch
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase
from fairseq.modules import LayerNorm
from torch import Tensor, nn

from ..checkpoints.fingerprint import DictionaryFingerprint
from ..columns.isotropic import build_isotropic_columns
from ..columns.stack import RevCol
from .config import isotropic_config


class RevColEncoder(TransformerEncoderBase):
    """Word embeddings and positions, then reversible columns (paper Appendix B.2).

    The stem (embedding, scale, positions, layernorm, dropout), the reordering and the limits are
    fairseq's; the columns take the place of its layers, and a LayerNorm closes them.
    """

    def __init__(self, cfg: TransformerConfig, dictionary: Dictionary, embed_tokens: nn.Embedding):
        cfg.encoder.layers = 0
        super().__init__(cfg, dictionary, embed_tokens)
        self.revcol = RevCol(
            build_isotropic_columns(isotropic_config(cfg)),
            reversible=not cfg.encoder.no_reversible,
            keep_columns=cfg.encoder.keep_columns,
            keyframe_budget=cfg.encoder.keyframe_budget,
        )
        self.layer_norm = LayerNorm(embed_tokens.embedding_dim, export=cfg.export)
        self.dictionary_fingerprint = DictionaryFingerprint(dictionary, side="source")

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
            src_lengths: unused; lengths follow from the padding.
            return_all_hiddens: also return the stem's output and every column's top level, which
                in training costs the memory of holding them.
            token_embeddings: ``(B, T, C)`` to use in place of the embedding table's rows.

        Returns:
            fairseq's encoder output: ``encoder_out`` ``[(T, B, C)]``, ``encoder_padding_mask``
            ``[(B, T)]``, true at padding, ``encoder_embedding`` ``[(B, T, C)]``,
            ``encoder_states`` ``[(T, B, C), ...]``, ``src_lengths`` ``[(B, 1)]``.
        """
        padding_mask = src_tokens.eq(self.padding_idx)
        has_padding = bool(padding_mask.any())
        stem, embedding = self.forward_embedding(src_tokens, token_embeddings)
        if has_padding:
            stem = stem.masked_fill(padding_mask.unsqueeze(-1), 0)

        mask = {"key_padding_mask": padding_mask if has_padding else None}
        last = len(self.revcol.columns) - 1
        columns = self.revcol.forward_columns(
            stem,
            [mask] * self.revcol.num_levels,
            range(last + 1) if return_all_hiddens else [last],
        )
        hiddens = [stem, *(states[-1] for states in columns.values())]
        return {
            "encoder_out": [self.layer_norm(columns[last][-1]).transpose(0, 1)],
            "encoder_padding_mask": [padding_mask],
            "encoder_embedding": [embedding],
            "encoder_states": [x.transpose(0, 1) for x in hiddens] if return_all_hiddens else [],
            "fc_results": [],
            "src_tokens": [],
            "src_lengths": [padding_mask.logical_not().sum(dim=1, dtype=torch.int32)[:, None]],
        }

    def make_generation_fast_(self, retain_dropout: bool = False, **kwargs: object) -> None:
        """Called by fairseq before generation."""
        if retain_dropout:
            raise ValueError("--retain-dropout cannot reach the dropout inside columns; remove it")
