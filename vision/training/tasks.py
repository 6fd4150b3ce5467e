"""Training tasks: what a loss is computed from.

A task is a ``timm.task.TrainingTask``: it maps images and targets to a dictionary whose ``loss`` is
minimised, says which module is trained, and brings the evaluator for validation. A new loss is a
new subclass of it, made here; `vision.training.trainer` knows tasks only by that interface.
"""

from __future__ import annotations

import torch
from timm.task import ClassificationTask, TrainingTask
from torch import nn

from vision.training.configs import EmaConfig
from vision.training.data_configs import TargetConfig


def create_task(
    network: nn.Module,
    targets: TargetConfig,
    ema: EmaConfig,
    *,
    soft_targets: bool,
    device: torch.device,
) -> TrainingTask:
    """Returns the classification of images by ``network``, with label smoothing.

    Args:
        network: on ``device``; maps images (batch, channels, height, width) to logits (batch,
            classes).
        targets: smoothing of the labels.
        ema: moving average of the weights, if any.
        soft_targets: targets are probabilities of shape (batch, classes), which mixing gives and
            smooths, in place of class indices of shape (batch,).
        device: that computes the loss.
    """
    task = ClassificationTask(
        network,
        criterion_kwargs={"smoothing": targets.smoothing, "soft_targets": soft_targets},
        device=device,
        verbose=False,
    )
    if ema.model_ema:
        task.setup_ema(ema.model_ema_decay, use_warmup=ema.model_ema_warmup)
    return task
