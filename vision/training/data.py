"""Images as the model gets them: augmented, in microbatches, in the same order in every run.

All randomness of an image derives from one seed, which its position in the epoch fixes. So the
number of workers, the number of processes and an interruption change nothing.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, auto_augment, create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from vision.training.command import UserError
from vision.training.configs import ComputeConfig, OptimisationConfig
from vision.training.data_configs import AugmentationConfig, InputConfig, TargetConfig
from vision.training.distributed import Process
from vision.training.sources import Source

# Unreadable images in a row that are replaced before a run is given up.
MAX_UNREADABLE = 10

# Purposes of a seed; each gets seeds of its own.
SUBSET, ORDER, UPDATE = range(1, 4)

# Index of an image, and the seed of its augmentation.
SeededIndex = tuple[int, int]
# Images, targets, and the names of the images that could not be read.
Batch = tuple[Tensor, Tensor, list[str]]


class BatchSizes(NamedTuple):
    """Images per update over all processes, images per microbatch, microbatches per process."""

    update: int
    microbatch: int
    accumulation: int


def choose_batch_sizes(config: OptimisationConfig, images: int, process: Process) -> BatchSizes:
    """Returns the sizes for a training set of so many images.

    Raises:
        UserError: if the batch is larger than the training set, or cannot be divided.
    """
    update = config.batch_size
    microbatch = config.micro_batch_size or max(1, update // process.world)
    if update > images:
        raise UserError(f"--batch-size {update} is more than the {images} images there are")
    if update % (process.world * microbatch):
        raise UserError(
            f"--batch-size {update} is not a multiple of {process.world} processes times "
            f"--micro-batch-size {microbatch}"
        )
    return BatchSizes(update, microbatch, update // (process.world * microbatch))


class Images(Dataset):
    """Transformed images by `SeededIndex`, with their targets and the name of an unreadable one.

    Args:
        source: images and targets.
        transform: of an image to a tensor; may use any of the CPU's global generators.
        replace: use the next readable image in place of one that cannot be read. If it is off, or
            more than `MAX_UNREADABLE` in a row cannot be read, the image is None.
        indices: of the images to use; all by default.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Image.Image], Tensor],
        *,
        replace: bool,
        indices: Sequence[int] | None = None,
    ):
        self.source, self.transform = source, transform
        self.attempts = MAX_UNREADABLE + 1 if replace else 1
        self.indices = range(len(source)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, seeded_index: SeededIndex) -> tuple[Tensor | None, int, str | None]:
        first, seed = seeded_index
        unreadable = None
        for position in range(first, first + self.attempts):
            index = self.indices[position % len(self)]
            try:
                image, target = self.source[index]
            # Decoders raise OSError, SyntaxError, ValueError and more for damaged images.
            except Exception as error:
                unreadable = unreadable or f"{self.source.describe_image(index)} ({error})"
            else:
                with use_seed(seed):
                    return self.transform(image), target, unreadable
        return None, -1, unreadable


@contextmanager
def use_seed(seed: int) -> Iterator[None]:
    """Seeds the CPU generators of torch, numpy and Python, and restores their states at the end."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def derive_seed(*numbers: int) -> int:
    """Returns one seed for several numbers; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class MicrobatchSampler(Sampler[list[SeededIndex]]):
    """The images of one process, microbatch by microbatch.

    An update takes the next images of the epoch's permutation. They are cut into microbatches,
    which the processes take in turn, so the number of processes does not change what is in one.
    Images that remain at the end of an epoch are left out.

    Args:
        images: in the training set.
        sizes: of updates and microbatches.
        process: that the microbatches are for.
        seed: of the run.
    """

    def __init__(self, images: int, sizes: BatchSizes, process: Process, seed: int):
        self.images, self.sizes, self.seed = images, sizes, seed
        self.first, self.stride = process.rank * sizes.microbatch, process.world * sizes.microbatch
        self.updates = images // sizes.update
        self.epoch = self.update = 0

    def start_at(self, epoch: int, update: int) -> None:
        """Sets where the next iteration begins."""
        self.epoch, self.update = epoch, update

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, ORDER, self.epoch))
        order = torch.randperm(self.images, generator=generator)
        seeds = torch.randint(2**32, (self.images,), generator=generator)
        for update in range(self.update, self.updates):
            start = update * self.sizes.update
            for first in range(start + self.first, start + self.sizes.update, self.stride):
                place = slice(first, first + self.sizes.microbatch)
                yield list(zip(order[place].tolist(), seeds[place].tolist(), strict=True))

    def __len__(self) -> int:
        return (self.updates - self.update) * self.sizes.accumulation


def choose_subset(images: int, subset: int | None, seed: int) -> list[int] | None:
    """Returns the indices of ``subset`` random images; None stands for all.

    Raises:
        UserError: if there are fewer images.
    """
    if subset is None:
        return None
    if subset > images:
        raise UserError(f"--subset {subset} is more than the {images} images there are")
    generator = torch.Generator().manual_seed(derive_seed(seed, SUBSET))
    return torch.randperm(images, generator=generator)[:subset].tolist()


def resolve_input_format(
    network: nn.Module, img_size: int | None, config: InputConfig
) -> dict[str, Any]:
    """Returns size and normalisation of images in timm's terms; those not given are the model's."""
    given = {
        "img_size": img_size,
        "mean": config.mean,
        "std": config.std,
        "crop_pct": config.crop_pct,
        "interpolation": config.interpolation,
    }
    return resolve_data_config(given, model=network)


def create_train_transform(
    config: AugmentationConfig, input_format: Mapping[str, Any]
) -> Callable[[Image.Image], Tensor]:
    """Returns timm's augmentation of training images."""
    transform = create_transform(
        input_format["input_size"],
        is_training=True,
        scale=config.scale,
        ratio=config.ratio,
        hflip=config.hflip,
        color_jitter=config.color_jitter or None,
        auto_augment=config.aa,
        interpolation=config.train_interpolation,
        mean=input_format["mean"],
        std=input_format["std"],
        re_prob=config.reprob,
        re_mode=config.remode,
        re_count=config.recount,
    )
    return allow_zero_bits(transform)


def allow_zero_bits(transform: Any) -> Any:
    """Lets the posterize operations in timm's ``transform`` keep 0 bits; returns ``transform``.

    timm's RandAugment asks for 0 bits now and then. Pillow refuses that from version 13 on. Only
    the operations of this transform are changed, not timm's table of operations.
    """
    for policy in getattr(transform, "transforms", [transform]):
        # RandAugment and AugMix have one list of operations, AutoAugment a list of such lists.
        for entry in [*getattr(policy, "ops", ()), *getattr(policy, "policy", ())]:
            for operation in entry if isinstance(entry, list | tuple) else [entry]:
                if getattr(operation, "aug_fn", None) is auto_augment.posterize:
                    operation.aug_fn = posterize
    return transform


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Does as timm's function of this name; with 0 bits, the image becomes black."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **options)


def create_training_loader(
    images: Images, sampler: MicrobatchSampler, config: ComputeConfig, process: Process
) -> DataLoader[Batch]:
    """Returns a loader of this process's microbatches; its workers live as long as the run."""
    return _create_loader(
        images,
        config,
        process,
        batch_sampler=sampler,
        persistent_workers=config.workers > 0,
    )


def create_validation_loader(
    source: Source,
    input_format: Mapping[str, Any],
    batch_size: int,
    config: ComputeConfig,
    process: Process,
) -> DataLoader[Batch]:
    """Returns a loader of this process's share; the processes together have each image once."""
    images = Images(source, create_transform(**input_format), replace=False)
    share = [(index, 0) for index in range(process.rank, len(images), process.world)]
    return _create_loader(images, config, process, sampler=share, batch_size=batch_size)


def _create_loader(
    images: Images, config: ComputeConfig, process: Process, **options: Any
) -> DataLoader[Batch]:
    return DataLoader(
        images,
        num_workers=config.workers,
        collate_fn=collate,
        worker_init_fn=_ignore_interrupts,
        pin_memory=process.device.type == "cuda",
        **options,
    )


def collate(samples: Sequence[tuple[Tensor | None, int, str | None]]) -> Batch:
    """Stacks the images that could be read, and lists the names of those that could not."""
    readable = [sample for sample in samples if sample[0] is not None]
    images = torch.stack([image for image, _, _ in readable]) if readable else torch.empty(0)
    targets = torch.tensor([target for _, target, _ in readable])
    return images, targets, [name for _, _, name in samples if name]


def _ignore_interrupts(worker: int) -> None:
    """Keeps a worker alive after Ctrl-C, so that the update under way can be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def create_mixup(config: TargetConfig, classes: int, microbatch: int) -> Mixup | None:
    """Returns timm's mixup and CutMix, or None if both are off.

    Raises:
        UserError: if the microbatch has an odd number of images.
    """
    if not (config.mixup or config.cutmix):
        return None
    if microbatch % 2:
        raise UserError(f"mixing needs an even --micro-batch-size, not {microbatch}")
    return Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch_prob,
        mode=config.mixup_mode,
        label_smoothing=config.smoothing,
        num_classes=classes,
    )
