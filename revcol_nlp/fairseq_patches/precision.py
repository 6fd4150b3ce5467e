"""Patches of half precision.

Each function replaces a function of fairseq, which it gets as ``original``.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from fairseq.trainer import Trainer
from omegaconf import DictConfig


def use_bf16_without_tpu(original: Callable, cfg: DictConfig, main: Callable, **kwargs: Any) -> Any:
    """Replaces ``distributed_utils.call_main``: --bf16 asks for a TPU in each part of ``cfg``."""
    if cfg.common.bf16 and importlib.util.find_spec("torch_xla") is None:
        for part in cfg.values():
            if isinstance(part, DictConfig) and "tpu" in part:
                part.tpu = False
    return original(cfg, main, **kwargs)


def skip_overflow_without_gpu(
    original: Callable, self: Trainer, *args: Any, **kwargs: Any
) -> dict[str, Any] | None:
    """Replaces ``Trainer.train_step``.

    With --fp16, fairseq skips an update whose gradients overflow, and puts a zero for the logs on
    the GPU, also where there is no GPU.
    """
    try:
        return original(self, *args, **kwargs)
    except (AssertionError, RuntimeError) as error:
        if self.cuda or not isinstance(error.__context__, OverflowError):
            raise
        self.zero_grad()
        return None


def recompute_under_autocast(
    original: Callable, forward: Callable, offload_to_cpu: bool, *args: Any, **kwargs: Any
) -> Any:
    """Replaces ``checkpoint_activations._checkpointed_forward``.

    The backward pass, which calls ``forward`` again, is not under autocast: with --amp it would
    compute other activations than the forward pass, in float32, and other gradients.
    """
    tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
    first = next(tensors, None)
    if first is None:
        return original(forward, offload_to_cpu, *args, **kwargs)
    device_type = first.device.type
    autocast = dict(
        device_type=device_type,
        dtype=torch.get_autocast_dtype(device_type),
        enabled=torch.is_autocast_enabled(device_type),
    )

    def forward_as_before(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(**autocast):
            return forward(*args, **kwargs)

    return original(forward_as_before, offload_to_cpu, *args, **kwargs)
