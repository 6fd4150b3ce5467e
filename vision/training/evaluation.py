"""Validation: loss and accuracy of a network over a data set, and of a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import nn
from torch.utils.data import DataLoader

from vision.training.building import build_model
from vision.training.checkpoints import load_weights, read_checkpoint
from vision.training.command import UserError, explain_write_errors
from vision.training.configs import ComputeConfig, TrainingConfig, ValidationConfig
from vision.training.data import Batch, create_validation_loader, resolve_input_format
from vision.training.data_configs import DataConfig
from vision.training.distributed import (
    Process,
    configure_logging,
    join_processes,
    sum_over_processes,
)
from vision.training.report import Row, format_report, write_json
from vision.training.sources import check_classes, open_source

logger = logging.getLogger(__name__)

# Unreadable files that are named in the log.
NAMED_FILES = 5


def autocast(device: torch.device, dtype: str | None) -> AbstractContextManager:
    """Returns torch's mixed precision in the dtype of that name; None: no mixed precision."""
    return torch.autocast(device.type, dtype=getattr(torch, dtype)) if dtype else nullcontext()


def warn_unreadable(names: Sequence[str], before: int) -> None:
    """Logs the names of unreadable files, up to `NAMED_FILES` with those ``before``."""
    for name in names[: max(0, NAMED_FILES - before)]:
        logger.warning("unreadable image: %s", name)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    loader: DataLoader[Batch],
    evaluator: ClassificationEvaluator,
    process: Process,
    amp_dtype: str | None,
) -> Row:
    """Measures ``network`` over the images that can be read, in all processes together.

    Args:
        network: on the process's device; it is left in evaluation mode.
        loader: of this process's share of the images.
        evaluator: new, of the task; says what is measured.
        process: this one.
        amp_dtype: of mixed precision, or None.

    Raises:
        UserError: if no image can be read.
    """
    network.eval()
    device = process.device
    unreadable = 0
    for images, targets, names in loader:
        warn_unreadable(names, unreadable)
        unreadable += len(names)
        if len(images):
            with autocast(device, amp_dtype):
                output = network(images.to(device, non_blocking=True))
            evaluator.update(output, targets.to(device, non_blocking=True))
    images, unreadable = sum_over_processes(process, evaluator.num_samples, unreadable)
    if not images:
        raise UserError("none of the validation images can be read")
    metrics = evaluator.compute(distributed=process.world > 1)
    return dict(metrics, images=int(images), unreadable=int(unreadable))


def validate_checkpoint(data: DataConfig, compute: ComputeConfig, config: ValidationConfig) -> None:
    """Measures a checkpoint of ``vision.train``, and prints the results.

    Raises:
        UserError: if the checkpoint cannot be used, or its classes are not those of the data.
    """
    process = join_processes(compute.device)
    configure_logging(process)
    state = read_checkpoint(config.checkpoint)
    weights = state.get("state_dict_ema" if config.ema else "state_dict")
    if weights is None:
        raise UserError(
            f"{config.checkpoint} was trained without --model-ema: it has no averaged weights"
        )
    trained, classes = TrainingConfig.from_options(state["options"]), state["data"]["classes"]
    source = open_source(data.data, data.val_split, data.dataset, data.dataset_download)
    check_classes(classes, source.classes, config.checkpoint, source.title)

    network = build_model(trained.model, trained.model.num_classes or len(classes))
    load_weights(network, weights, config.checkpoint)
    input_format = resolve_input_format(network, trained.model.img_size, trained.input)
    loader = create_validation_loader(source, input_format, config.batch_size, compute, process)
    metrics = evaluate(
        network.to(process.device),
        loader,
        ClassificationEvaluator(process.device),
        process,
        trained.optimisation.amp_dtype,
    )
    if process.primary:
        results = dict(
            checkpoint=config.checkpoint, model=trained.model.model, ema=config.ema, **metrics
        )
        print(format_report(results))
        if config.results:
            file = Path(config.results)
            with explain_write_errors(file.parent):
                write_json(results, file)
