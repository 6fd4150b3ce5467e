"""The training loop: epochs, updates, and when losses are read and checkpoints saved."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from timm.data import Mixup
from timm.task import TrainingTask
from timm.utils import CheckpointSaver, random_seed, unwrap_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from vision.training.building import Optimisation
from vision.training.checkpoints import Progress, RunState
from vision.training.command import Interrupted, StopRequest, UserError, explain_write_errors
from vision.training.configs import TrainingConfig
from vision.training.data import (
    MAX_UNREADABLE,
    UPDATE,
    Batch,
    BatchSizes,
    MicrobatchSampler,
    derive_seed,
)
from vision.training.distributed import Process, sum_over_processes, wait_for_all
from vision.training.evaluation import autocast, evaluate, warn_unreadable
from vision.training.report import Journal, format_epoch, measure_peak_memory

logger = logging.getLogger(__name__)


class LossBuffer:
    """Losses of updates that are still on the device.

    To read a number off a GPU, the CPU has to wait until the GPU has computed it, and then the GPU
    has to wait for its next work. So the losses stay there until somebody needs them.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def append(self, loss: Tensor) -> None:
        """Adds the loss of an update, a tensor without dimensions."""
        self._losses.append(loss)

    def read(self, process: Process) -> list[float]:
        """Returns the losses since the last call, summed over all processes; waits once."""
        if not self._losses:
            return []
        losses = torch.stack(self._losses).tolist()
        self._losses.clear()
        return sum_over_processes(process, *losses)


@dataclass
class Trainer:
    """Trains epoch by epoch; `vision.training.run.build_trainer` makes it.

    An update is a step of the optimizer. In each process it consists of ``sizes.accumulation``
    microbatches, whose gradients add up to that of the mean loss over all images of the update.

    Attributes:
        journal: in the primary process, from the start of training.
        stop_request: says whether a signal asked to stop.
    """

    config: TrainingConfig
    process: Process
    network: nn.Module
    task: TrainingTask
    optimisation: Optimisation
    sizes: BatchSizes
    sampler: MicrobatchSampler
    loader: DataLoader[Batch]
    val_loader: DataLoader[Batch]
    mixup: Mixup | None
    state: RunState
    saver: CheckpointSaver
    journal: Journal | None = None
    stop_request: StopRequest = field(default_factory=StopRequest)
    losses: LossBuffer = field(default_factory=LossBuffer)

    @property
    def progress(self) -> Progress:
        return self.state.progress

    @property
    def folder(self) -> Path:
        return Path(self.config.checkpoint.output)

    @property
    def epochs(self) -> int:
        return self.config.optimisation.epochs

    @property
    def finished(self) -> bool:
        return self.progress.epoch == self.epochs

    def train(self) -> None:
        """Trains the epochs that are left. Raises as `run_training`."""
        while not self.finished:
            self.train_epoch()
            self.finish_epoch()
            if self.process.primary:
                # Before the checkpoint: a run interrupted in between repeats the epoch's end.
                with explain_write_errors(self.folder):
                    self.journal.update(self.progress.rows)
                self.save_epoch()

    def train_epoch(self) -> None:
        """Trains the rest of the epoch under way."""
        progress, updates = self.progress, self.sampler.updates
        run, checkpoint = self.config.run, self.config.checkpoint
        self.task.get_trainable_module().train()
        self.sampler.start_at(progress.epoch, progress.update)
        batches = iter(self.loader)
        title = f"epoch {progress.epoch + 1}/{self.epochs}"
        bar = tqdm(
            total=updates,
            initial=progress.update,
            desc=title,
            leave=False,
            disable=not (self.process.primary and sys.stderr.isatty()),
        )
        started = time.perf_counter() - progress.seconds
        with bar:
            while progress.update < updates:
                stops = self.train_update(batches)
                progress.update += 1
                bar.update()
                is_last = progress.update == updates
                logs = progress.update % run.log_interval == 0
                interval = checkpoint.checkpoint_interval
                saves = interval and progress.update % interval == 0 and not is_last
                if logs or saves or stops or is_last:
                    self.read_losses()
                progress.seconds = time.perf_counter() - started
                if logs:
                    self._log_update(bar, title)
                if (saves or stops) and self.process.primary:
                    self.save_recovery()
                if stops:
                    self._stop(title)

    def _log_update(self, bar: tqdm, title: str) -> None:
        progress = self.progress
        bar.set_postfix(loss=f"{progress.mean_loss:.4f}", refresh=False)
        if bar.disable:
            speed = progress.update * self.sizes.update / progress.seconds
            logger.info(
                f"{title}, update {progress.update}/{self.sampler.updates}: loss "
                f"{progress.mean_loss:.4f}, lr {self.optimisation.lr:.3g}, {speed:.0f} images/s"
            )

    def _stop(self, title: str) -> None:
        wait_for_all(self.process)  # torchrun ends all processes as soon as one has ended
        raise Interrupted(
            self.stop_request.signal_number,
            f"interrupted after update {self.progress.update} of {title}, and saved: run the same "
            "command again to resume",
        )

    def train_update(self, batches: Iterator[Batch]) -> bool:
        """Updates the weights once; returns True if a process was asked to stop.

        It reads nothing off the device, except for float16 (see `Optimisation.backward`).
        """
        process, progress, device = self.process, self.progress, self.process.device
        number = progress.epoch * self.sampler.updates + progress.update
        self.optimisation.optimizer.zero_grad()
        loss = torch.zeros((), device=device)
        unreadable = 0
        for step in range(self.sizes.accumulation):
            images, targets, names = next(batches)
            warn_unreadable(names, progress.unreadable + unreadable)
            unreadable += len(names)
            if len(images) < self.sizes.microbatch:
                raise UserError(
                    f"more than {MAX_UNREADABLE} images in a row cannot be read, among them "
                    f"{names[0]}"
                )
            images = images.to(device, non_blocking=True)
            targets = targets.to(device, non_blocking=True)
            # The seed depends on the microbatch's position in the run. So mixing and dropout draw
            # the same numbers in whichever process it is, and after an interruption.
            position = step * process.world + process.rank
            random_seed(derive_seed(self.config.run.seed, UPDATE, number, position))
            if self.mixup:
                images, targets = self.mixup(images, targets)
            is_last = step == self.sizes.accumulation - 1
            with nullcontext() if is_last else self.task.no_sync():
                with autocast(device, self.config.optimisation.amp_dtype):
                    share = self.task(images, targets)["loss"] / self.sizes.accumulation
                self.optimisation.backward(share, update=is_last)
            loss += share.detach() / process.world
        self.losses.append(loss)
        self.task.update_ema(step=number + 1)
        self.optimisation.scheduler.step_update(number + 1)
        return self._share_counts(unreadable)

    def _share_counts(self, unreadable: int) -> bool:
        """Counts unreadable images over all processes; True if one of these was asked to stop.

        A signal that comes later than this is noticed after the next update, so that all processes
        stop after the same one.
        """
        stops = self.stop_request.signal_number != 0
        unreadable, stops = sum_over_processes(self.process, unreadable, stops)
        self.progress.unreadable += int(unreadable)
        if stops and not self.stop_request.signal_number:
            self.stop_request.signal_number = signal.SIGTERM
        return stops > 0

    def read_losses(self) -> None:
        """Reads the losses since the last call off the device, and adds them to the epoch's.

        Raises:
            UserError: if one is not finite, and a smaller loss scale cannot help.
        """
        progress = self.progress
        losses = self.losses.read(self.process)
        for update, loss in enumerate(losses, start=progress.update - len(losses) + 1):
            if math.isfinite(loss):
                progress.loss_sum += loss
                progress.losses += 1
            elif not self.optimisation.can_lower_loss_scale():
                raise UserError(
                    f"the loss is {loss} at update {update} of epoch {progress.epoch + 1}: a lower "
                    "--lr, more --warmup-epochs or --clip-grad may help"
                )

    def finish_epoch(self) -> None:
        """Validates, and counts the epoch as completed."""
        progress = self.progress
        started = time.perf_counter()
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": progress.mean_loss,
            "lr": self.optimisation.lr,
            "unreadable": progress.unreadable,
            "seconds": progress.seconds,
            "images_per_second": self.sampler.updates * self.sizes.update / progress.seconds,
        }
        for suffix, ema in (("", False), ("_ema", True)):
            network = self.task.get_eval_model(ema=ema)
            if network is not None:
                metrics = evaluate(
                    unwrap_model(network),
                    self.val_loader,
                    self.task.create_evaluator(),
                    self.process,
                    self.config.optimisation.amp_dtype,
                )
                row |= {f"eval_{name}{suffix}": value for name, value in metrics.items()}
        row["eval_seconds"] = time.perf_counter() - started
        row["peak_memory_mib"] = measure_peak_memory(self.process.device)
        self.state.progress = Progress(epoch=progress.epoch + 1, rows=[*progress.rows, row])
        logger.info(format_epoch(row, self.epochs))

    def save_recovery(self) -> None:
        """Saves a checkpoint within an epoch."""
        self._check_finite()
        with explain_write_errors(self.folder):
            self.saver.save_recovery(self.progress.epoch, self.progress.update)

    def save_epoch(self) -> None:
        """Saves a checkpoint after an epoch, ranked by accuracy: of the averaged weights if any."""
        self._check_finite()
        row = self.progress.rows[-1]
        with explain_write_errors(self.folder):
            self.saver.save_checkpoint(row["epoch"], row.get("eval_top1_ema", row["eval_top1"]))
            for path in self.folder.glob(f"{self.saver.recovery_prefix}*"):
                path.unlink()

    def _check_finite(self) -> None:
        finite = [weight.isfinite().all() for weight in self.network.parameters()]
        if not torch.stack(finite).all():
            raise UserError(
                f"weights are no longer finite after update {self.progress.update} of epoch "
                f"{self.progress.epoch + 1}, and were not saved: a lower --lr may help"
            )
