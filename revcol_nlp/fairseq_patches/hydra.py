"""Patches of fairseq-hydra-train, which loads the plugin only inside of its main function.

Each function replaces a function of fairseq, which it gets as ``original``. ``add_defaults`` is the
first function that the main function calls with the whole configuration.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig, open_dict

from .distributed import check_ddp_backend, is_on_cpu, join_torchrun


def fill_preset(
    presets: Mapping[str, Mapping[str, Any]], original: Callable, cfg: DictConfig
) -> None:
    """Replaces ``add_defaults`` in fairseq_cli.train.

    With --arch, fairseq calls the function of the architecture. fairseq-hydra-train takes the
    defaults of the model's dataclass, whichever architecture ``model._name`` names.

    Args:
        presets: the options of each architecture that differ from the defaults.
    """
    preset = presets.get(cfg.model.get("_name")) if isinstance(cfg.model, DictConfig) else None
    if preset is not None:
        with open_dict(cfg.model):
            for name, value in preset.items():
                cfg.model.setdefault(name, value)
    original(cfg)


def join_inside_main(original: Callable, cfg: DictConfig) -> None:
    """Replaces ``add_defaults`` in fairseq_cli.train: ``call_main`` ran before the plugin came.

    Raises:
        ValueError: if the --ddp-backend cannot work.
    """
    original(cfg)
    check_ddp_backend(cfg)
    if not torch.distributed.is_initialized() and join_torchrun(cfg):
        if not is_on_cpu(cfg):
            torch.cuda.set_device(cfg.distributed_training.device_id)
        distributed_utils.distributed_init(cfg)
