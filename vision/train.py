"""Trains a timm model: python -m vision.train DATA --model NAME --recipe NAME

On several devices: torchrun --nproc_per_node 2 -m vision.train DATA ...
The same command goes on where a run was cut off.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import yaml
from timm.utils import CheckpointSaver, random_seed
from torch import distributed
from tqdm import tqdm

from vision.training import checkpoints, model, report
from vision.training.checkpoints import Progress
from vision.training.data import (
    MAX_UNREADABLE,
    UPDATE,
    Batch,
    create_mixup,
    fold,
    training_loader,
    validation_loader,
)
from vision.training.errors import Interrupted, UserError, writing
from vision.training.optimisation import Optimisation
from vision.training.options import parse
from vision.training.process import Process, run, start, total
from vision.training.sources import open_sources
from vision.validate import autocast, evaluate, warn_unreadable

logger = logging.getLogger(__name__)


class Run:
    """A training run in its output folder, begun or taken up again.

    An update is ``accumulation`` micro batches in each process, whose gradients add up to that of
    the mean loss over all the update's images.

    Raises:
        UserError: if options, data and what is in the folder do not go together.
    """

    def __init__(self, args: Namespace, process: Process):
        self.args, self.process, self.device = args, process, process.device
        args.micro_batch_size = args.micro_batch_size or max(1, args.batch_size // process.world)
        self.accumulation = args.batch_size // (args.micro_batch_size * process.world)
        train, val = open_sources(args, process)
        classes = args.num_classes or len(train.classes)
        if classes < len(train.classes):
            raise UserError(f"--num-classes {classes} is less than the data's {len(train.classes)}")
        random_seed(args.seed)
        network = model.create_for_training(args, classes).to(self.device)
        self.loader = training_loader(train, args, network, process)
        self.order = self.loader.batch_sampler
        self.val_loader = validation_loader(val, args, network, args.micro_batch_size, process)
        self.mixup = create_mixup(args, classes)

        self.task = checkpoints.Task(
            network,
            criterion_kwargs={"smoothing": args.smoothing, "soft_targets": self.mixup is not None},
            device=self.device,
            classes=train.classes,
            images=len(self.loader.dataset),
        )
        self.network = network
        if args.model_ema:
            self.task.setup_ema(args.model_ema_decay, use_warmup=args.model_ema_warmup)
        self.optimisation = Optimisation(args, network, self.order.updates, self.device)
        self.folder = Path(args.output)
        self.saver = CheckpointSaver(
            network,
            self.optimisation.optimizer,
            args=args,
            amp_scaler=self.optimisation.scaler,
            task=self.task,
            checkpoint_dir=str(self.folder),
            recovery_dir=str(self.folder),
            max_history=args.checkpoint_hist,
        )
        self._resume()
        if process.world > 1:
            self.task.prepare_distributed([self.device] if self.device.type == "cuda" else None)
        self.signal = 0

    @property
    def progress(self) -> Progress:
        return self.task.progress

    def _resume(self) -> None:
        """Takes up what the folder holds, if anything."""
        choice = [checkpoints.newest(self.folder) if self.process.primary else None]
        if self.process.world > 1:
            distributed.broadcast_object_list(choice)
        path = choice[0]
        if path is not None:
            if not self.args.resume:
                raise UserError(f"{self.folder} holds a run: remove it, or choose another --output")
            state = checkpoints.read(path)
            checkpoints.check_same_run(state, self.args, self.task.data)
            self.task.progress = Progress(**state["progress"])
            self.task.load_checkpoint_state(state["state_dict"])
            if self.task.has_ema():
                self.task.load_checkpoint_state(state["state_dict_ema"], ema=True)
            self.optimisation.load(state)
            # Without what it was about to write then: that is written again below.
            self.saver.load_state_dict(state["saver"] | {"pending": (None, None)})
            done = f"{self.progress.epoch} epochs and {self.progress.update} updates"
            logger.info("going on from %s, after %s", path, done)
        if self.process.world > 1:
            distributed.barrier()  # no process writes while another reads
        if self.process.primary:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                settings = yaml.safe_dump(vars(self.args), sort_keys=False)
                (self.folder / "args.yaml").write_text(settings, encoding="utf-8")
            if self.progress.epoch and not self.progress.update:
                self._save_epoch()  # it may have been cut off half-way

    def train(self) -> report.Row | None:
        """Trains to the end, and returns the report; nothing in a process that is not primary.

        Raises:
            Interrupted: on SIGINT or SIGTERM, after saving a checkpoint.
            UserError: if the loss or the weights are no longer finite, or images cannot be read.
        """
        if self.progress.epoch == self.args.epochs:
            logger.info("this run is finished: it has had its %d epochs", self.args.epochs)
        elif self.process.primary:
            self.journal = report.Journal(self.folder, self.progress.epoch)
        with self._noting_signals():
            while self.progress.epoch < self.args.epochs:
                self._train_epoch()
                self._end_epoch()
                if self.process.primary:
                    # Before the checkpoint: a run cut off in between does this epoch's end again.
                    with writing(self.folder):
                        self.journal.write(self.progress.rows)
                    self._save_epoch()
        if not self.process.primary:
            return None
        parameters = sum(weight.numel() for weight in self.network.parameters())
        facts = {"model": self.args.model, "parameters": parameters}
        with writing(self.folder):
            return report.make_report(self.progress.rows, self.folder, facts)

    @contextmanager
    def _noting_signals(self) -> Iterator[None]:
        """Inside, a first SIGINT or SIGTERM is noted, for the update under way to be finished."""

        def note(number: int, frame: object) -> None:
            self.signal = number
            signal.signal(number, signal.default_int_handler)  # a second one ends the run at once

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            # A handler left behind would keep the run, and its workers, until Python ends.
            for number, handler in before.items():
                signal.signal(number, handler)

    def _train_epoch(self) -> None:
        args, progress, updates = self.args, self.progress, self.order.updates
        self.task.get_trainable_module().train()
        self.order.start_at(progress.epoch, progress.update)
        batches = iter(self.loader)
        title = f"epoch {progress.epoch + 1}/{args.epochs}"
        bar = tqdm(
            total=updates,
            initial=progress.update,
            desc=title,
            leave=False,
            disable=not (self.process.primary and sys.stderr.isatty()),
        )
        started = time.perf_counter() - progress.seconds
        while progress.update < updates:
            self._update(batches)
            progress.update += 1
            progress.seconds = time.perf_counter() - started
            bar.update()
            bar.set_postfix(loss=f"{self._loss():.4f}", refresh=False)
            if bar.disable and progress.update % args.log_interval == 0:
                speed = progress.update * args.batch_size / progress.seconds
                logger.info(
                    f"{title}, update {progress.update}/{updates}: loss {self._loss():.4f}, "
                    f"lr {self.optimisation.lr:.3g}, {speed:.0f} images/s"
                )
            interval = args.checkpoint_interval
            due = interval and progress.update % interval == 0 and progress.update < updates
            if (due or self.signal) and self.process.primary:
                self._check_finite()
                with writing(self.folder):
                    self.saver.save_recovery(progress.epoch, progress.update)
            if self.signal:
                bar.close()
                if self.process.world > 1:
                    distributed.barrier()  # torchrun ends all processes when one has ended
                raise Interrupted(
                    self.signal,
                    f"interrupted after update {progress.update} of "
                    f"{title}, and saved: the same command goes on from there",
                )
        bar.close()

    def _update(self, batches: Iterator[Batch]) -> None:
        """One step of the optimizer."""
        args, progress, process = self.args, self.progress, self.process
        number = progress.epoch * self.order.updates + progress.update
        self.optimisation.optimizer.zero_grad()
        mean = torch.zeros((), device=self.device)
        unreadable = 0
        for step in range(self.accumulation):
            images, targets, names = next(batches)
            warn_unreadable(names, progress.unreadable + unreadable)
            unreadable += len(names)
            if len(images) < args.micro_batch_size:
                raise UserError(
                    f"more than {MAX_UNREADABLE} images in a row cannot be read, "
                    f"among them {names[0]}"
                )
            images = images.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            # By its place in the run: whichever process has the micro batch, and whether or not
            # the run was cut off before, mixing and dropout draw the same.
            random_seed(fold(args.seed, UPDATE, number, step * process.world + process.rank))
            if self.mixup:
                images, targets = self.mixup(images, targets)
            last = step == self.accumulation - 1
            with nullcontext() if last else self.task.no_sync():
                with autocast(self.device, args.amp_dtype):
                    loss = self.task(images, targets)["loss"] / self.accumulation
                self.optimisation.backward(loss, last)
            mean += loss.detach() / process.world
        self.task.update_ema(step=number + 1)
        self.optimisation.scheduler.step_update(number + 1)

        mean, unreadable, signalled = total(process, mean.item(), unreadable, self.signal != 0)
        progress.unreadable += int(unreadable)
        if signalled:
            self.signal = self.signal or signal.SIGTERM
        if math.isfinite(mean):
            progress.loss_sum += mean
            progress.losses += 1
        elif not self.optimisation.may_scale_down():
            raise UserError(
                f"the loss is {mean} at update {progress.update + 1} of epoch "
                f"{progress.epoch + 1}: a lower --lr, more --warmup-epochs or --clip-grad may help"
            )

    def _end_epoch(self) -> None:
        """Validates, and counts the epoch as done."""
        progress, process = self.progress, self.process
        started = time.perf_counter()
        row = {
            "epoch": progress.epoch + 1,
            "train_loss": self._loss(),
            "lr": self.optimisation.lr,
            "unreadable": progress.unreadable,
            "seconds": progress.seconds,
            "images_per_second": self.order.updates * self.args.batch_size / progress.seconds,
        }
        networks = {"": self.network, "_ema": self.task.get_eval_model(ema=True)}
        for suffix, network in networks.items():
            if network is not None:
                metrics = evaluate(network, self.val_loader, process, self.args.amp_dtype)
                row |= {f"eval_{name}{suffix}": value for name, value in metrics.items()}
        row["eval_seconds"] = time.perf_counter() - started
        row["peak_memory_mib"] = report.peak_memory(self.device)
        self.task.progress = Progress(epoch=progress.epoch + 1, rows=[*progress.rows, row])
        logger.info(report.line(row, self.args.epochs))

    def _save_epoch(self) -> None:
        """Saves the state after an epoch, ranked by the accuracy of the averaged weights if any."""
        self._check_finite()
        row = self.progress.rows[-1]
        with writing(self.folder):
            self.saver.save_checkpoint(row["epoch"], row.get("eval_top1_ema", row["eval_top1"]))
        for path in self.folder.glob(f"{self.saver.recovery_prefix}*"):
            path.unlink()

    def _check_finite(self) -> None:
        if not all(weight.isfinite().all() for weight in self.network.parameters()):
            raise UserError(
                f"weights are no longer finite after update {self.progress.update} of epoch "
                f"{self.progress.epoch + 1}, and were not saved: a lower --lr may help"
            )

    def _loss(self) -> float:
        return self.progress.loss_sum / max(1, self.progress.losses)


def train(argv: Sequence[str]) -> None:
    """Trains as the options say, and prints the report."""
    args = parse(argv)
    results = Run(args, start(args.device)).train()
    if results:
        print(report.show(results))


def main() -> int:
    return run(train, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
