"""Measures the accuracy of a checkpoint: python -m vision.validate DATA --checkpoint FILE"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from timm.task.evaluator import ClassificationEvaluator
from torch import nn
from torch.utils.data import DataLoader

from vision.training import checkpoints, model, report
from vision.training.data import Batch, validation_loader
from vision.training.errors import UserError
from vision.training.options import validate_parser
from vision.training.process import Process, run, start, total
from vision.training.sources import Source, check_classes

logger = logging.getLogger(__name__)

NAMED_FILES = 5


def autocast(device: torch.device, dtype: str | None) -> AbstractContextManager:
    """Mixed precision in the dtype of that name, or none."""
    return torch.autocast(device.type, dtype=getattr(torch, dtype)) if dtype else nullcontext()


def warn_unreadable(names: Sequence[str], before: int) -> None:
    """Logs names of unreadable files, as long as fewer than `NAMED_FILES` came ``before``."""
    for name in names[: max(0, NAMED_FILES - before)]:
        logger.warning("unreadable image: %s", name)


@torch.no_grad()
def evaluate(
    network: nn.Module, loader: DataLoader[Batch], process: Process, amp_dtype: str | None
) -> report.Row:
    """Loss and accuracies in percent over the images that can be read, of all processes.

    Raises:
        UserError: if none can be read.
    """
    network.eval()
    device = process.device
    evaluator = ClassificationEvaluator(device)
    unreadable = 0
    for images, targets, names in loader:
        warn_unreadable(names, unreadable)
        unreadable += len(names)
        if len(images):
            with autocast(device, amp_dtype):
                output = network(images.to(device, non_blocking=True))
            evaluator.update(output, targets.to(device, non_blocking=True))
    images, unreadable = total(process, evaluator.num_samples, unreadable)
    if not images:
        raise UserError("none of the validation images can be read")
    metrics = evaluator.compute(distributed=process.world > 1)
    return dict(metrics, images=int(images), unreadable=int(unreadable))


def validate(argv: Sequence[str]) -> None:
    """Validates as the options say, and prints what came out."""
    args = validate_parser().parse_args(argv)
    process = start(args.device)
    state = checkpoints.read(args.checkpoint)
    weights = state.get("state_dict_ema" if args.ema else "state_dict")
    if weights is None:
        raise UserError(
            f"{args.checkpoint} was trained without --model-ema: it has no such weights"
        )
    trained, classes = state["args"], state["data"]["classes"]
    source = Source(args.data, args.dataset, args.val_split, args.dataset_download)
    check_classes(classes, source.classes, args.checkpoint, source.where)

    network = model.create(trained, trained.num_classes or len(classes))
    checkpoints.load_weights(network, weights, args.checkpoint)
    trained.workers = args.workers
    loader = validation_loader(source, trained, network, args.batch_size, process)
    metrics = evaluate(network.to(process.device), loader, process, trained.amp_dtype)
    if process.primary:
        results = dict(checkpoint=args.checkpoint, model=trained.model, ema=args.ema, **metrics)
        print(report.show(results))
        if args.results:
            report.write_json(results, Path(args.results))


def main() -> int:
    return run(validate, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
