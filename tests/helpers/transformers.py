"""RevCol-Transformers in memory, for the tests of the fairseq plugin."""

from __future__ import annotations

from argparse import Namespace

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


def dictionary(size: int) -> Dictionary:
    """A dictionary of ``size`` entries, fairseq's four special symbols included."""
    found = Dictionary()
    for n in range(size - len(found)):
        found.add_symbol(f"w{n}")
    return found


def build(arch: str = "revcol_transformer_tiny", size: int = 100, **options):
    """A seeded model of architecture ``arch`` with a joined dictionary of ``size`` entries."""
    torch.manual_seed(0)
    args = Namespace(arch=arch, **options)
    ARCH_CONFIG_REGISTRY[arch](args)
    if arch in PRESETS:
        fill_preset(args, {})  # as fairseq fills in the dataclass's defaults
    joined = dictionary(size)
    task = Namespace(source_dictionary=joined, target_dictionary=joined)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def small(**options) -> FairseqEncoderDecoderModel:
    return build(**(SMALL | options))
