"""Configurations of the data: where images come from, and how they reach the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vision.training.config_fields import option, parse_integer, parse_number


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """images"""

    data: str = option(
        "folder, .zip file or .tar file with the folders train/ and val/, which hold one folder of "
        "images per class; with --dataset, the folder that holds the files of that data set",
        may_change=True,
    )
    dataset: str = option(
        "open a data set by its name in timm in place of class folders in DATA: torch/cifar10 is "
        "torchvision's CIFAR-10, hfds/cifar10 is the one of Hugging Face (default: class folders)",
        "",
        metavar="KIND/NAME",
    )
    dataset_download: bool = option(
        "let torchvision download the data set into DATA; needs --dataset torch/NAME",
        False,
        may_change=True,
    )
    val_split: str = option(
        "name of the split that accuracy is measured on; val, valid, validation and eval are the "
        "same",
        "validation",
        metavar="SPLIT",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSetConfig:
    """images for training"""

    train_split: str = option(
        "name of the split that the model is trained on", "train", metavar="SPLIT"
    )
    subset: int | None = option(
        "train on this number of images, which the seed chooses once for all epochs (default: all "
        "images)",
        None,
        type=parse_integer(1),
        metavar="IMAGES",
    )


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """random changes to each training image"""

    scale: Sequence[float] = option(
        "smallest and largest area of the random crop, as a share of the image's area",
        (0.08, 1.0),
        type=parse_number(0, 1),
        nargs=2,
        metavar="SHARE",
    )
    ratio: Sequence[float] = option(
        "smallest and largest width of the random crop divided by its height",
        (3 / 4, 4 / 3),
        type=parse_number(),
        nargs=2,
        metavar="RATIO",
    )
    hflip: float = option(
        "probability of mirroring the image left to right",
        0.5,
        type=parse_number(0, 1),
        metavar="PROBABILITY",
    )
    color_jitter: float = option(
        "largest relative change of brightness, contrast and saturation; 0: no change",
        0.0,
        type=parse_number(),
        metavar="CHANGE",
    )
    aa: str | None = option(
        "policy of AutoAugment, RandAugment, AugMix or 3-Augment as timm writes it: "
        "rand-m9-mstd0.5-inc1 is RandAugment of magnitude 9, with standard deviation 0.5, larger "
        "meaning stronger (default: none)",
        None,
        metavar="POLICY",
    )
    train_interpolation: str = option(
        "method that resizes the crop; random: bilinear or bicubic, chosen for each image",
        "random",
        choices=("random", "bilinear", "bicubic"),
    )
    reprob: float = option(
        "probability of erasing a random rectangle of the image",
        0.0,
        type=parse_number(0, 1),
        metavar="PROBABILITY",
    )
    remode: str = option(
        "filling of an erased rectangle: the mean colour (const), one random colour (rand), or a "
        "random colour for each pixel (pixel)",
        "pixel",
        choices=("const", "rand", "pixel"),
    )
    recount: int = option(
        "largest number of rectangles erased in an image",
        1,
        type=parse_integer(1),
        metavar="RECTANGLES",
    )


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """mixing of images, and their targets"""

    mixup: float = option(
        "alpha of mixup: two images are averaged with weights from the distribution Beta(alpha, "
        "alpha); 0: no mixup",
        0.0,
        type=parse_number(),
        metavar="ALPHA",
    )
    cutmix: float = option(
        "alpha of CutMix: a rectangle of another image is pasted in, its share of the area from "
        "the distribution Beta(alpha, alpha); 0: no CutMix",
        0.0,
        type=parse_number(),
        metavar="ALPHA",
    )
    mixup_prob: float = option(
        "probability of mixing at all, for each draw that --mixup-mode names",
        1.0,
        type=parse_number(0, 1),
        metavar="PROBABILITY",
    )
    mixup_switch_prob: float = option(
        "probability of CutMix in place of mixup, where both are on",
        0.5,
        type=parse_number(0, 1),
        metavar="PROBABILITY",
    )
    mixup_mode: str = option(
        "draw the weights once per microbatch (batch), per pair of images (pair) or per image "
        "(elem)",
        "batch",
        choices=("batch", "pair", "elem"),
    )
    smoothing: float = option(
        "label smoothing: share of the target's probability that is spread evenly over all classes",
        0.1,
        type=parse_number(0, 1),
        metavar="SHARE",
    )


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """how images enter the model"""

    mean: Sequence[float] | None = option(
        "red, green and blue that are subtracted from each pixel, on a scale from 0 to 1 (default: "
        "the model's own)",
        None,
        type=float,
        nargs=3,
        metavar=("RED", "GREEN", "BLUE"),
    )
    std: Sequence[float] | None = option(
        "red, green and blue that each pixel is divided by after that (default: the model's own)",
        None,
        type=float,
        nargs=3,
        metavar=("RED", "GREEN", "BLUE"),
    )
    crop_pct: float | None = option(
        "in validation, edge of the centre crop as a share of the resized image's shorter edge "
        "(default: the model's own)",
        None,
        type=parse_number(0, 1),
        metavar="SHARE",
    )
    interpolation: str | None = option(
        "in validation, method that resizes images (default: the model's own)",
        None,
        choices=("bilinear", "bicubic"),
    )
