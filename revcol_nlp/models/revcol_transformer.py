"""The RevCol-Transformer and its architectures, registered with fairseq by importing this file.

fairseq imports it for ``--user-dir``. The model is built in this order: fairseq calls `build_model`
with the flat options; `build_transformer_config` checks and nests them; fairseq makes the
embeddings and calls `build_encoder` and `build_decoder`.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fairseq import hub_utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerModelBase,
)
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ..checkpoints.contents import check_kinds
from ..checkpoints.fingerprint import DictionaryFingerprint
from .config import PRESETS, RevColTransformerConfig, build_transformer_config, fill_preset
from .encoder import RevColEncoder


@register_model("revcol_transformer", dataclass=RevColTransformerConfig)
class RevColTransformerModel(TransformerModelBase):
    """The RevCol-Transformer (Appendix B.2): a RevCol encoder and fairseq's transformer decoder.

    Attributes:
        encoder_class: makes the encoder; a model with columns of its own sets another.
    """

    encoder_class = RevColEncoder

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        # Without defaults, a preset can see which options the command line did not set.
        gen_parser_from_dataclass(parser, RevColTransformerConfig(), delete_default=True)

    @classmethod
    def build_model(cls, cfg: Namespace | DictConfig, task: FairseqTask) -> RevColTransformerModel:
        """Build the model from fairseq's flat options, and the dictionaries of ``task``.

        Raises:
            ValueError: if an option is unknown, impossible, or without effect.
        """
        flat = vars(cfg)
        if OmegaConf.is_config(cfg):
            flat = OmegaConf.to_container(cfg, enum_to_str=True)
        return super().build_model(build_transformer_config(flat), task)

    @classmethod
    def build_encoder(
        cls, cfg: TransformerConfig, src_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> RevColEncoder:
        return cls.encoder_class(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(
        cls, cfg: TransformerConfig, tgt_dict: Dictionary, embed_tokens: nn.Embedding
    ) -> TransformerDecoderBase:
        decoder = super().build_decoder(cfg, tgt_dict, embed_tokens)
        decoder.dictionary_fingerprint = DictionaryFingerprint(tgt_dict, side="target")
        return decoder

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load weights as in fairseq.

        Values are not read here: ``--store-ema`` calls this in each update. Files with weights that
        are not finite are refused when they are loaded, by the patch checkpoints.finite.

        Raises:
            UnusableCheckpointError: if a weight is of another kind (integer, real, complex) than
                the model's.
        """
        check_kinds(self.state_dict(), state_dict)
        return super().load_state_dict(state_dict, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        checkpoint_file: str = "model.pt",
        data_name_or_path: str | Path = ".",
        **options: Any,
    ) -> GeneratorHubInterface:
        """Load a translator: ``from_pretrained(folder).translate(["A sentence ."], beam=4)``.

        The folder holds the checkpoint, the two files ``dict.*.txt`` of the data it was trained on
        and, if the model reads subwords, subword-nmt's codes in a file ``bpecodes``. With
        ``tokenizer`` and ``bpe`` the translator takes and returns raw text::

            translator = RevColTransformerModel.from_pretrained(
                folder, tokenizer="moses", bpe="subword_nmt"
            ).cuda()
            translator.translate(["Raw text is tokenised here."], beam=4, lenpen=0.6)

        Args:
            model_name_or_path: a folder, or an archive or URL that fairseq unpacks to one.
            checkpoint_file: name of the checkpoint in the folder; several names, separated by
                ``:``, make an ensemble.
            data_name_or_path: the folder of the dictionaries. A path that begins with a dot is
                relative to the model's folder.
            options: replace the options of training: ``tokenizer``, ``bpe``, ``bpe_codes``,
                ``max_tokens`` and so on. If the checkpoint does not name its languages,
                ``source_lang`` and ``target_lang`` are needed. Moses uses the model's languages.

        Returns:
            fairseq's hub interface, a module with ``translate``, ``encode``, ``generate`` and
            ``decode``.

        Raises:
            FileNotFoundError: if a file is missing.
            DamagedCheckpointError: if a checkpoint is truncated or overwritten.
            DictionaryMismatchError: if the dictionaries are not those of training.
        """
        folder = Path(model_name_or_path)
        is_archive = "://" in str(model_name_or_path) or folder.is_file()
        needed = [] if is_archive else [folder / f for f in checkpoint_file.split(os.pathsep)]
        if not str(data_name_or_path).startswith("."):
            needed.append(Path(data_name_or_path))
        for path in needed:
            if not path.exists():
                raise FileNotFoundError(f"there is no file or folder {path}")
        loaded = hub_utils.from_pretrained(
            str(model_name_or_path), checkpoint_file, str(data_name_or_path), **options
        )
        cfg, task = loaded["args"], loaded["task"]
        # fairseq prefers the codes in the folder to those that the caller names.
        if isinstance(cfg.bpe, DictConfig):
            cfg.bpe.update({k: v for k, v in options.items() if k in cfg.bpe})
        # fairseq gives Moses English as both languages.
        if isinstance(cfg.tokenizer, DictConfig) and "source_lang" in cfg.tokenizer:
            cfg.tokenizer.source_lang = task.cfg.source_lang
            cfg.tokenizer.target_lang = task.cfg.target_lang
        return GeneratorHubInterface(cfg, task, loaded["models"])

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None,
        prev_output_tokens: Tensor,
        return_all_hiddens: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """As in fairseq, but ``return_all_hiddens`` is off by default.

        Returning the states of all columns in training means to hold them in memory.
        """
        return super().forward(
            src_tokens, src_lengths, prev_output_tokens, return_all_hiddens, **kwargs
        )


for _name, _preset in PRESETS.items():
    if _name != "revcol_transformer":
        register_model_architecture("revcol_transformer", _name)(
            partial(fill_preset, preset=_preset)
        )
