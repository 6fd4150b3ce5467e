"""``--arch revcol_transformer`` and its presets: fairseq finds this file through ``--user-dir``."""

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
from .config import PRESETS, RevColTransformerConfig, fill_preset, transformer_config
from .encoder import RevColEncoder


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
        """A translator: ``from_pretrained(folder).translate(["A sentence ."], beam=4)``.

        It is fairseq's hub interface, a module with ``translate``, ``encode``, ``generate`` and
        ``decode``. The folder holds ``model.pt``, the ``dict.*.txt`` it was trained with and, for
        text that is not split into subwords yet, subword-nmt's codes in a file ``bpecodes``::

            translator = RevColTransformerModel.from_pretrained(
                folder, tokenizer="moses", bpe="subword_nmt"
            ).cuda()
            translator.translate(["Raw text, tokenised here."], beam=4, lenpen=0.6)

        Args:
            model_name_or_path: a folder, or whatever else fairseq resolves to one.
            checkpoint_file: its name in the folder; several, separated by ``:``, are an ensemble.
            data_name_or_path: the folder of the dictionaries, relative to the model's if it begins
                with a dot.
            options: in the place of those of training: ``tokenizer``, ``bpe``, ``bpe_codes``,
                ``max_tokens`` and so on; ``source_lang`` and ``target_lang`` where the checkpoint
                does not say them. Moses gets the languages of the model.

        Raises:
            FileNotFoundError: if a file is missing.
            DamagedCheckpointError: if a checkpoint is cut short or overwritten.
            DictionaryMismatchError: if the dictionaries are not those of training.
        """
        folder = Path(model_name_or_path)
        is_archive = "://" in str(model_name_or_path) or folder.is_file()
        wanted = [] if is_archive else [folder / f for f in checkpoint_file.split(os.pathsep)]
        if not str(data_name_or_path).startswith("."):
            wanted.append(Path(data_name_or_path))
        for path in wanted:
            if not path.exists():
                raise FileNotFoundError(f"there is no {path}")
        loaded = hub_utils.from_pretrained(
            str(model_name_or_path), checkpoint_file, str(data_name_or_path), **options
        )
        cfg, task = loaded["args"], loaded["task"]
        if isinstance(cfg.bpe, DictConfig):  # fairseq prefers the folder's codes
            cfg.bpe.update({k: v for k, v in options.items() if k in cfg.bpe})
        if isinstance(cfg.tokenizer, DictConfig) and "source_lang" in cfg.tokenizer:
            # fairseq takes all languages for English.
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
