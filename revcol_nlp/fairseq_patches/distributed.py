"""Patches of training in several processes: torchrun, and processes without GPUs.

Each function replaces a function of fairseq, which it gets as ``original``.
"""

import os
import typing
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode
from torch import nn

from .replacing import find_command_modules


def list_broadcast_globals() -> list[Any]:
    """List what the state of a training refers to when rank 0 sends it to the other processes.

    They receive the checkpoint, and the configuration in it, through ``torch.load``.
    """
    return [
        *(_TensorPlaceholder, DictConfig, ListConfig, AnyNode, Metadata, ContainerMetadata),
        *(typing.Any, defaultdict, dict, list, int),
    ]


def join_before_main(original: Callable, cfg: DictConfig, main: Callable, **kwargs: Any) -> Any:
    """Replaces ``distributed_utils.call_main``.

    Raises:
        ValueError: if fairseq would start one process per GPU and there is no GPU, or if the
            --ddp-backend cannot work.
    """
    if any(main is module.main for module in find_command_modules("fairseq_cli.train")):
        check_ddp_backend(cfg)
        join_torchrun(cfg)
    distributed = cfg.distributed_training
    if (
        distributed.distributed_init_method is not None
        and not distributed.distributed_no_spawn
        and not cfg.common.tpu
        and torch.cuda.device_count() == 0
    ):
        # fairseq would start no process, train nothing and exit with success.
        raise ValueError(
            "--distributed-init-method starts one process per GPU, and there is no GPU: start the "
            "processes with torchrun and leave the option out, or add --distributed-no-spawn"
        )
    return original(cfg, main, **kwargs)


def check_ddp_backend(cfg: DictConfig) -> None:
    """Refuse a --ddp-backend that cannot work: fairseq's own errors do not name the reason.

    Raises:
        ValueError: if it needs a GPU or does not work with reversible columns.
    """
    backend = cfg.distributed_training.ddp_backend
    if is_on_cpu(cfg) and backend in ("fully_sharded", "slowmo"):
        raise ValueError(
            f"--ddp-backend {backend} needs a GPU (and fairscale): on the CPU take pytorch_ddp, "
            "the default, or legacy_ddp"
        )
    if backend == "fully_sharded" and getattr(cfg.model, "encoder_no_reversible", None) is False:
        raise ValueError(
            "--ddp-backend fully_sharded hides the parameters from reversible columns: take "
            "pytorch_ddp, the default, or add --encoder-no-reversible"
        )


def join_torchrun(cfg: DictConfig) -> bool:
    """Make this process one of the processes that torchrun started.

    fairseq looks for torchrun only where it sees more than one GPU. Elsewhere each process would
    train a model of its own, and all would write to one folder.

    Returns:
        False if torchrun did not start several processes, or the command line says how to join.
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
    if is_on_cpu(cfg):
        distributed.distributed_backend = "gloo"
    return True


def is_on_cpu(cfg: DictConfig) -> bool:
    """Whether a training with the configuration ``cfg`` runs on the CPU."""
    return cfg.common.cpu or not torch.cuda.is_available()


def make_ddp_for_any_device(original: type[nn.Module]) -> type[nn.Module]:
    """Replaces ``DistributedDataParallel`` in fairseq.models.distributed_fairseq_model.

    --ddp-backend pytorch_ddp, the default, names a GPU also for a model on the CPU.
    """

    class DistributedDataParallel(original):
        def __init__(
            self, module: nn.Module, device_ids: Any = None, output_device: Any = None, **kwargs
        ):
            if next(module.parameters()).device.type == "cpu":
                device_ids = output_device = None
            with warnings.catch_warnings():
                # torch would warn of an option that fairseq gives, and name this file.
                warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)
                super().__init__(module, device_ids, output_device, **kwargs)

    return DistributedDataParallel
