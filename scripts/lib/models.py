"""Build fairseq models with random weights, and tasks with a dictionary for them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks.translation import TranslationConfig, TranslationTask

import revcol_nlp.models  # noqa: F401 (registers the architectures)
from revcol_nlp.models.config import PRESETS, fill_preset


def build_model(
    arch: str, task: TranslationTask, *, seed: int = 0, **options: object
) -> BaseFairseqModel:
    """Build a model of architecture ``arch`` with random weights."""
    torch.manual_seed(seed)
    args = Namespace(arch=arch, **options)
    if arch in PRESETS:
        fill_preset(args, PRESETS[arch])
    else:
        ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def build_joined_task(size: int, lines: Iterable[str] = ()) -> TranslationTask:
    """Build a task whose two languages share a dictionary of ``size`` entries.

    The entries are the most frequent words of ``lines``; made-up words fill up the rest.
    """
    dictionary = Dictionary()
    for line in lines:
        dictionary.encode_line(line)
    dictionary.finalize(nwords=size, padding_factor=1)
    for n in range(size - len(dictionary)):
        dictionary.add_symbol(f"filler{n}")
    return TranslationTask(TranslationConfig(), dictionary, dictionary)
