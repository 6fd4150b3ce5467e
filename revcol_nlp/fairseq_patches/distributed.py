"""fairseq in several processes: with torchrun, with or without GPUs, also in fairseq-hydra-train.

Each function here stands in for one of fairseq's, which it gets as ``original``.
"""

import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig
from torch import nn

from .commands import loaded_command


def join_before_main(original: Callable, cfg: DictConfig, main: Callable, **kwargs: Any) -> Any:
    """Raises ValueError where fairseq would start one process per GPU and there is no GPU."""
    if cfg.common.bf16 and importlib.util.find_spec("torch_xla") is None:
        # --bf16 asks for a TPU as well, in each part of the configuration that has one.
        for part in cfg.values():
            if isinstance(part, DictConfig) and "tpu" in part:
                part.tpu = False
    if main is getattr(loaded_command("fairseq_cli.train"), "main", None):
        _check_ddp_backend(cfg)
        _join_torchrun(cfg)
    distributed = cfg.distributed_training
    if (
        distributed.distributed_init_method is not None
        and not distributed.distributed_no_spawn
        and not cfg.common.tpu
        and torch.cuda.device_count() == 0
    ):
        # fairseq starts no process, trains nothing and exits with success.
        raise ValueError(
            "--distributed-init-method starts one process per GPU, and there is no GPU: start the "
            "processes with torchrun and leave the option out, or add --distributed-no-spawn"
        )
    return original(cfg, main, **kwargs)


def join_inside_main(original: Callable, cfg: DictConfig) -> None:
    # fairseq-hydra-train imports the plugin only inside of its main, past join_before_main. This
    # is the first function that main hands the whole configuration.
    original(cfg)
    _check_ddp_backend(cfg)
    if not torch.distributed.is_initialized() and _join_torchrun(cfg):
        if not _on_cpu(cfg):
            torch.cuda.set_device(cfg.distributed_training.device_id)
        distributed_utils.distributed_init(cfg)


def _check_ddp_backend(cfg: DictConfig) -> None:
    """Raises ValueError for one that cannot work."""
    # fairseq asks for fairscale, which then fails without a word about the CPU.
    backend = cfg.distributed_training.ddp_backend
    if _on_cpu(cfg) and backend in ("fully_sharded", "slowmo"):
        raise ValueError(
            f"--ddp-backend {backend} needs a GPU (and fairscale): on the CPU take pytorch_ddp, "
            "the default, or legacy_ddp"
        )
    if backend == "fully_sharded" and getattr(cfg.model, "encoder_no_reversible", None) is False:
        raise ValueError(
            "--ddp-backend fully_sharded hides the parameters from reversible columns: take "
            "pytorch_ddp, the default, or add --encoder-no-reversible"
        )


def _join_torchrun(cfg: DictConfig) -> bool:
    """Make this process one of those that torchrun started; False where it did not start several.

    fairseq looks for torchrun only where it sees more than one GPU. Elsewhere each process
    silently trains a model of its own, all in one folder.
    """
    distributed = cfg.distributed_training
    started_by_torchrun = {"MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK"} <= os.environ.keys()
    if (
        not started_by_torchrun
        or int(os.environ.get("WORLD_SIZE", 1)) == 1
        or distributed.distributed_init_method is not None
        or distributed.pipeline_model_parallel
        or cfg.common.tpu
    ):
        return False
    distributed.distributed_init_method = "env://"
    distributed.distributed_world_size = int(os.environ["WORLD_SIZE"])
    distributed.distributed_rank = int(os.environ["RANK"])
    distributed.device_id = int(os.environ["LOCAL_RANK"]) % max(1, torch.cuda.device_count())
    distributed.distributed_no_spawn = True
    if _on_cpu(cfg):
        distributed.distributed_backend = "gloo"
    return True


def _on_cpu(cfg: DictConfig) -> bool:
    return cfg.common.cpu or not torch.cuda.is_available()


def ddp_on_any_device(
    original: Callable, module: nn.Module, device_ids: Any, output_device: Any, **kwargs: Any
) -> nn.Module:
    # --ddp-backend pytorch_ddp, the default, names a GPU even with --cpu.
    if next(module.parameters()).device.type == "cpu":
        device_ids = output_device = None
    with warnings.catch_warnings():  # of an option that fairseq names, in the name of this file
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
        return original(module, device_ids=device_ids, output_device=output_device, **kwargs)
