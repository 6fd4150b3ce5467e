"""What the benchmarks of whole models share: fairseq models with random weights, a dictionary."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks.translation import TranslationTask

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import revcol_nlp.models  # noqa: F401 (registers the architectures)
from revcol_nlp.config import PRESETS, fill_preset


def build_model(arch: str, task: TranslationTask, **options: object) -> BaseFairseqModel:
    """A model of architecture ``arch`` with random weights."""
    torch.manual_seed(0)
    args = Namespace(arch=arch, **options)
    if arch in PRESETS:
        fill_preset(args, PRESETS[arch])
    else:
        ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def joined_dictionary(lines: Iterable[str], size: int) -> Dictionary:
    """A dictionary of ``size`` entries: the most frequent words of ``lines``, then fillers."""
    dictionary = Dictionary()
    for line in lines:
        dictionary.encode_line(line)
    dictionary.finalize(nwords=size, padding_factor=1)
    for n in range(size - len(dictionary)):
        dictionary.add_symbol(f"filler{n}")
    return dictionary
