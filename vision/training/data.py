"""Images as the model gets them: augmented, in batches, in the same order in every run alike.

All that is random about an image hangs on one seed, which its place in the epoch decides. So the
number of workers, that of processes, and where a run was cut off change nothing.
"""

from __future__ import annotations

import random
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import Mixup, auto_augment, create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from vision.training.errors import UserError
from vision.training.process import Process
from vision.training.sources import Source

# Images in a row that may be unreadable before an epoch is given up.
MAX_UNREADABLE = 10

# What a seed is for, besides the seed of the run.
SUBSET, ORDER, UPDATE = range(1, 4)

# An index with the seed of all that is random about the image.
Draw = tuple[int, int]
# Images, targets, and the names of those images that could not be read.
Batch = tuple[Tensor, Tensor, list[str]]


class Images(Dataset):
    """Transformed images by `Draw`, with their targets; and the name of one that cannot be read.

    Args:
        source: images and targets.
        transform: of an image to a tensor; may draw from any of the global generators.
        replace: put the next readable image in the place of one that cannot be read. Where that
            is off, or there are more than `MAX_UNREADABLE` in a row, the image is None.
        indices: of the images to use, all by default.
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

    def __getitem__(self, draw: Draw) -> tuple[Tensor | None, int, str | None]:
        first, seed = draw
        unreadable = None
        for index in range(first, first + self.attempts):
            index = self.indices[index % len(self)]
            try:
                image, target = self.source[index]
            # A decoder raises OSError, SyntaxError, ValueError and more at what it cannot read.
            except Exception as error:
                unreadable = unreadable or f"{self.source.name(index)} ({error})"
            else:
                with seeded(seed):
                    return self.transform(image), target, unreadable
        return None, -1, unreadable


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the CPU generators of torch, numpy and Python inside, and restores them after."""
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


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """timm's, but that it may keep no bits, as RandAugment asks for now and then."""
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)  # black; Pillow 13 raises an error
    return auto_augment.posterize(image, bits_to_keep, **options)


auto_augment.NAME_TO_OP.update(Posterize=posterize, PosterizeIncreasing=posterize)


class MicroBatches(Sampler[list[Draw]]):
    """The draws of one process, micro batch by micro batch.

    An update takes the next ``batch`` images of the epoch's permutation, cut into micro batches
    that go to the processes in turn. So the number of processes does not change what is in them.
    What is left over at the end of an epoch is left out.

    Args:
        images: in the training set.
        batch: images per update, over all processes.
        micro: images per micro batch; divides ``batch / world``.
        process: whose micro batches these are.
        seed: of the run.
    """

    def __init__(self, images: int, batch: int, micro: int, process: Process, seed: int):
        self.images, self.batch, self.micro, self.seed = images, batch, micro, seed
        self.first, self.stride = process.rank * micro, process.world * micro
        self.updates = images // batch
        self.epoch = self.update = 0

    def start_at(self, epoch: int, update: int) -> None:
        self.epoch, self.update = epoch, update

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(fold(self.seed, ORDER, self.epoch))
        order = torch.randperm(self.images, generator=generator)
        seeds = torch.randint(2**32, (self.images,), generator=generator)
        for start in range(self.update * self.batch, self.updates * self.batch, self.batch):
            for first in range(start + self.first, start + self.batch, self.stride):
                place = slice(first, first + self.micro)
                yield list(zip(order[place].tolist(), seeds[place].tolist(), strict=True))

    def __len__(self) -> int:
        return (self.updates - self.update) * (self.batch // self.stride)


def fold(*numbers: int) -> int:
    """One seed of several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def collate(samples: Sequence[tuple[Tensor | None, int, str | None]]) -> Batch:
    """The samples that have an image, stacked, and the names of those that could not be read."""
    readable = [sample for sample in samples if sample[0] is not None]
    images = torch.stack([image for image, _, _ in readable]) if readable else torch.empty(0)
    targets = torch.tensor([target for _, target, _ in readable])
    return images, targets, [name for _, _, name in samples if name]


def _set_signals(worker: int) -> None:
    """A worker outlives Ctrl-C, so that the update under way can be finished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loader(images: Images, args: Namespace, process: Process, **order: Any) -> DataLoader[Batch]:
    """A DataLoader of ``images`` in the given ``order``: DataLoader's sampler or batch_sampler."""
    return DataLoader(
        images,
        num_workers=args.workers,
        collate_fn=collate,
        worker_init_fn=_set_signals,
        pin_memory=process.device.type == "cuda",
        persistent_workers=args.workers > 0 and "batch_sampler" in order,
        **order,
    )


def validation_loader(
    source: Source, args: Namespace, model: nn.Module, batch: int, process: Process
) -> DataLoader[Batch]:
    """This process's share of the images; together, the processes have each of them once."""
    config = resolve_data_config(vars(args), model=model)
    images = Images(source, create_transform(**config), replace=False)
    draws = [(index, 0) for index in range(process.rank, len(images), process.world)]
    return loader(images, args, process, sampler=draws, batch_size=batch)


def training_loader(
    source: Source, args: Namespace, model: nn.Module, process: Process
) -> DataLoader[Batch]:
    """The micro batches of this process; its ``batch_sampler`` says of which epoch.

    Raises:
        UserError: if the sizes of batches do not fit each other or the data.
    """
    config = resolve_data_config(vars(args), model=model)
    transform = create_transform(
        config["input_size"],
        is_training=True,
        scale=args.scale,
        ratio=args.ratio,
        hflip=args.hflip,
        color_jitter=args.color_jitter or None,
        auto_augment=args.aa,
        interpolation=args.train_interpolation,
        mean=config["mean"],
        std=config["std"],
        re_prob=args.reprob,
        re_mode=args.remode,
        re_count=args.recount,
    )
    indices = None
    if args.subset:
        if args.subset > len(source):
            raise UserError(
                f"--subset {args.subset} is more than the {len(source)} images there are"
            )
        generator = torch.Generator().manual_seed(fold(args.seed, SUBSET))
        indices = torch.randperm(len(source), generator=generator)[: args.subset].tolist()
    images = Images(source, transform, replace=True, indices=indices)
    if args.batch_size > len(images):
        raise UserError(
            f"--batch-size {args.batch_size} is more than the {len(images)} images there are"
        )
    if args.batch_size % (process.world * args.micro_batch_size):
        raise UserError(
            f"--batch-size {args.batch_size} is no multiple of {process.world} processes times "
            f"--micro-batch-size {args.micro_batch_size}"
        )
    sampler = MicroBatches(len(images), args.batch_size, args.micro_batch_size, process, args.seed)
    return loader(images, args, process, batch_sampler=sampler)


def create_mixup(args: Namespace, classes: int) -> Mixup | None:
    """timm's mixup and cutmix, if asked for.

    Raises:
        UserError: if micro batches cannot be mixed.
    """
    if not (args.mixup or args.cutmix):
        return None
    if args.micro_batch_size % 2:
        raise UserError(f"mixing needs an even --micro-batch-size, not {args.micro_batch_size}")
    return Mixup(
        mixup_alpha=args.mixup,
        cutmix_alpha=args.cutmix,
        prob=args.mixup_prob,
        switch_prob=args.mixup_switch_prob,
        mode=args.mixup_mode,
        label_smoothing=args.smoothing,
        num_classes=classes,
    )
