"""A training run from its options to its report."""

from __future__ import annotations

import logging

import yaml
from timm.utils import random_seed

from revcol_nlp.checkpoints.integrity import write_atomically
from vision.training.building import build_initial_model, build_optimisation
from vision.training.checkpoints import (
    RunState,
    check_same_run,
    create_saver,
    find_latest_checkpoint,
    read_checkpoint,
)
from vision.training.command import UserError, explain_write_errors, note_stop_signals
from vision.training.data import (
    Images,
    MicrobatchSampler,
    choose_batch_sizes,
    choose_subset,
    create_mixup,
    create_train_transform,
    create_training_loader,
    create_validation_loader,
    resolve_input_format,
)
from vision.training.distributed import (
    Process,
    broadcast_from_primary,
    configure_logging,
    join_processes,
    wait_for_all,
)
from vision.training.options import TrainingOptions
from vision.training.report import format_report, open_journal, write_report
from vision.training.sources import open_sources
from vision.training.tasks import create_task
from vision.training.trainer import Trainer

logger = logging.getLogger(__name__)


def run_training(options: TrainingOptions) -> None:
    """Trains as the options say, and prints the report.

    Raises:
        UserError: if options, data and the files of the run do not fit each other, if the loss or
            the weights are no longer finite, or if images cannot be read.
        Interrupted: after SIGINT or SIGTERM, when a checkpoint was saved.
    """
    process = join_processes(options.config.compute.device)
    configure_logging(process)
    if options.note:
        logger.info(options.note)
    trainer = build_trainer(options, process)
    resume_run(trainer)
    prepare_folder(trainer)
    if process.world > 1:
        ids = [process.device] if process.device.type == "cuda" else None
        trainer.task.prepare_distributed(ids)
    if trainer.finished:
        logger.info("this run is finished: it has had its %d epochs", trainer.epochs)
    else:
        if process.primary:
            trainer.journal = open_journal(trainer.folder, trainer.progress.epoch)
        with note_stop_signals() as trainer.stop_request:
            trainer.train()
    if process.primary:
        print(format_report(report_run(trainer)))


def build_trainer(options: TrainingOptions, process: Process) -> Trainer:
    """Opens the data and builds all parts of a run; it writes no file.

    Raises:
        UserError: if options and data do not fit each other.
    """
    config = options.config
    train_source, val_source = open_sources(config.data, config.training_set.train_split, process)
    classes = config.model.num_classes or len(train_source.classes)
    if classes < len(train_source.classes):
        raise UserError(
            f"--num-classes {classes} is less than the data's {len(train_source.classes)}"
        )
    seed = config.run.seed
    random_seed(seed)
    network = build_initial_model(config.model, config.weights, classes).to(process.device)

    input_format = resolve_input_format(network, config.model.img_size, config.input)
    images = Images(
        train_source,
        create_train_transform(config.augmentation, input_format),
        replace=True,
        indices=choose_subset(len(train_source), config.training_set.subset, seed),
    )
    sizes = choose_batch_sizes(config.optimisation, len(images), process)
    sampler = MicrobatchSampler(len(images), sizes, process, seed)
    mixup = create_mixup(config.targets, classes, sizes.microbatch)

    task = create_task(
        network,
        config.targets,
        config.ema,
        soft_targets=mixup is not None,
        device=process.device,
    )
    optimisation = build_optimisation(config.optimisation, network, sampler.updates, process.device)
    data = {"classes": train_source.classes, "images": len(images)}
    state = RunState(task, options.values, data)
    return Trainer(
        config=config,
        process=process,
        network=network,
        task=task,
        optimisation=optimisation,
        sizes=sizes,
        sampler=sampler,
        loader=create_training_loader(images, sampler, config.compute, process),
        val_loader=create_validation_loader(
            val_source, input_format, sizes.microbatch, config.compute, process
        ),
        mixup=mixup,
        state=state,
        saver=create_saver(
            config.checkpoint, state, network, optimisation.optimizer, optimisation.scaler
        ),
    )


def resume_run(trainer: Trainer) -> None:
    """Restores the latest checkpoint in the run's folder, if there is one.

    Raises:
        UserError: if resuming is switched off, or the checkpoint is of another run.
    """
    process, state, folder = trainer.process, trainer.state, trainer.folder
    found = find_latest_checkpoint(folder) if process.primary else None
    path = broadcast_from_primary(process, found)
    if path is not None:
        if not trainer.config.checkpoint.resume:
            raise UserError(f"{folder} holds a run: remove it, or choose another --output")
        contents = read_checkpoint(path)
        check_same_run(contents, state.options, state.data)
        state.load(contents)
        trainer.optimisation.load_state(contents)
        # The saver's record names a checkpoint that it was about to write. `prepare_folder` writes
        # that one again.
        trainer.saver.load_state_dict(contents["saver"] | {"pending": (None, None)})
        done = f"{trainer.progress.epoch} epochs and {trainer.progress.update} updates"
        logger.info("resuming from %s, after %s", path, done)
    wait_for_all(process)  # no process writes while another reads


def prepare_folder(trainer: Trainer) -> None:
    """Creates the run's folder, writes args.yaml, and finishes what an interruption left."""
    if not trainer.process.primary:
        return
    folder = trainer.folder
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(".*.part.*"):  # of `write_atomically`, in a process that was killed
            part.unlink()
        with write_atomically(folder / "args.yaml") as path:
            text = yaml.safe_dump(dict(trainer.state.options), sort_keys=False)
            path.write_text(text, encoding="utf-8")
    if trainer.progress.epoch and not trainer.progress.update:
        trainer.save_epoch()  # its files may be incomplete


def report_run(trainer: Trainer) -> dict[str, object]:
    """Writes report.json of a finished run, and returns its contents."""
    parameters = sum(weight.numel() for weight in trainer.network.parameters())
    facts = {"model": trainer.config.model.model, "parameters": parameters}
    with explain_write_errors(trainer.folder):
        return write_report(trainer.progress.rows, trainer.folder, facts)
