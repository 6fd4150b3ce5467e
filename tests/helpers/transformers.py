"""RevCol-Transformers in memory, for the tests of the fairseq plugin."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, FairseqEncoderDecoderModel

import revcol_nlp.models  # noqa: F401 (registers the architectures)
from revcol_nlp.models.config import PRESETS, fill_preset

SMALL = {
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_columns": 3,
    "decoder_embed_dim": 32,
    "decoder_ffn_embed_dim": 64,
    "decoder_layers": 1,
}


def build_dictionary(size: int) -> Dictionary:
    """Return a dictionary of ``size`` entries, fairseq's four special symbols included."""
    dictionary = Dictionary()
    for n in range(size - len(dictionary)):
        dictionary.add_symbol(f"w{n}")
    return dictionary


def build_model(
    arch: str = "revcol_transformer_tiny", size: int = 100, **options: Any
) -> FairseqEncoderDecoderModel:
    """Return a seeded model of architecture ``arch``, with a joined dictionary of ``size`` entries.

    Args:
        arch: any architecture that fairseq knows.
        size: number of entries in the dictionary.
        options: the options of the command line, such as ``encoder_columns=3``.
    """
    torch.manual_seed(0)
    args = Namespace(arch=arch, **options)
    ARCH_CONFIG_REGISTRY[arch](args)
    if arch in PRESETS:
        fill_preset(args, {})  # as fairseq fills in the dataclass's defaults
    joined = build_dictionary(size)
    task = Namespace(source_dictionary=joined, target_dictionary=joined)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def build_small(**options: Any) -> FairseqEncoderDecoderModel:
    """Return a model with the sizes `SMALL`, except for ``options``."""
    return build_model(**(SMALL | options))
