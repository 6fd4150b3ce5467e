"""The configurations of the two commands: one small class for each subject.

Each field is an option of a command line. Its type, default and help text are defined here, and in
`vision.training.data_configs`, only; `vision.training.options` makes the parsers from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from vision.training.config_fields import (
    option,
    parse_integer,
    parse_key_value,
    parse_number,
    select_config,
)
from vision.training.data_configs import (
    AugmentationConfig,
    DataConfig,
    InputConfig,
    TargetConfig,
    TrainingSetConfig,
)


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """devices"""

    workers: int = option(
        "processes that read and augment images for each device; with 0, the training process does "
        "it",
        4,
        may_change=True,
        type=parse_integer(0),
        metavar="PROCESSES",
    )
    device: str | None = option(
        "device that computes, in PyTorch's terms: cpu, cuda, cuda:1 (default: cuda if there is a "
        "GPU, else cpu)",
        None,
        may_change=True,
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """model"""

    model: str = option(
        "name of a model of timm, such as vit_tiny_patch16_224, or of this project, such as "
        "revcol_vit_small_patch16_224; required",
        metavar="NAME",
    )
    model_kwargs: Mapping[str, object] = option(
        "further arguments of the model, for example: num_columns=8 keep_columns=0 (default: none)",
        (),
        type=parse_key_value,
        nargs="+",
        metavar="KEY=VALUE",
    )
    num_classes: int | None = option(
        "number of classes that the model tells apart (default: as many as the data has)",
        None,
        type=parse_integer(1),
        metavar="CLASSES",
    )
    img_size: int | None = option(
        "height and width of the images that enter the model, in pixels (default: the model's own)",
        None,
        type=parse_integer(1),
        metavar="PIXELS",
    )
    drop: float | None = option(
        "probability of dropout, the model's drop_rate; most models use it before the classifier "
        "(default: the model's own)",
        None,
        type=parse_number(0, 1),
        metavar="PROBABILITY",
    )
    drop_path: float | None = option(
        "stochastic depth: the largest probability of leaving out a residual branch for an image, "
        "the model's drop_path_rate (default: the model's own)",
        None,
        type=parse_number(0, 1),
        metavar="PROBABILITY",
    )


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """first weights"""

    initial_checkpoint: str | None = option(
        "checkpoint with the weights that training starts from; names and shapes must be those of "
        "the model (default: random weights)",
        None,
        metavar="FILE",
    )
    pretrained_path: str | None = option(
        "checkpoint with weights to fine-tune: the classifier is replaced if the number of classes "
        "differs, position embeddings are resampled if the image size differs (default: random "
        "weights)",
        None,
        metavar="FILE",
    )
    head_init_scale: float | None = option(
        "before training, multiply the weights and biases of the classifier by this number, for "
        "example 0.001 (default: leave them as they are)",
        None,
        type=parse_number(),
        metavar="FACTOR",
    )


@dataclass(frozen=True, kw_only=True)
class OptimisationConfig:
    """optimisation"""

    epochs: int = option(
        "number of passes over the training images", 100, type=parse_integer(1), metavar="EPOCHS"
    )
    batch_size: int = option(
        "images per update of the weights, over all devices together",
        256,
        type=parse_integer(1),
        metavar="IMAGES",
    )
    micro_batch_size: int | None = option(
        "images that one device takes through the model at once; smaller ones need less memory, "
        "and their gradients add up to those of the whole batch (default: --batch-size divided by "
        "the number of processes)",
        None,
        type=parse_integer(1),
        metavar="IMAGES",
    )
    opt: str = option(
        "name of an optimizer in timm, for example adamw, sgd or lamb", "adamw", metavar="NAME"
    )
    opt_betas: Sequence[float] | None = option(
        "decay rates of the optimizer's running averages, for example 0.9 0.999 (default: the "
        "optimizer's own)",
        None,
        type=parse_number(0, 1),
        nargs="+",
        metavar="RATE",
    )
    opt_eps: float | None = option(
        "small number that the optimizer adds to a denominator to avoid a division by zero "
        "(default: the optimizer's own)",
        None,
        type=parse_number(),
        metavar="NUMBER",
    )
    momentum: float | None = option(
        "share of the previous step that the optimizer adds to the next one (default: 0.9)",
        None,
        type=parse_number(0, 1),
        metavar="SHARE",
    )
    weight_decay: float = option(
        "strength of weight decay; AdamW subtracts this times the learning rate times the weight "
        "at each update; biases and norms are not decayed",
        0.05,
        type=parse_number(),
        metavar="STRENGTH",
    )
    layer_decay: float | None = option(
        "multiply the learning rate by this factor once more for each layer further from the "
        "output (default: all layers have the same)",
        None,
        type=parse_number(0, 1),
        metavar="FACTOR",
    )
    lr: float = option(
        "learning rate at its peak, which is the end of the warm-up",
        1e-3,
        type=parse_number(),
        metavar="RATE",
    )
    sched: str = option(
        "course of the learning rate after the warm-up: it falls to --min-lr along a cosine, or "
        "stays at --lr (constant)",
        "cosine",
        choices=("cosine", "constant"),
    )
    warmup_epochs: float = option(
        "epochs in which the learning rate rises linearly from --warmup-lr to --lr; may be a "
        "fraction",
        0.0,
        type=parse_number(),
        metavar="EPOCHS",
    )
    warmup_lr: float = option(
        "learning rate at the start of the warm-up", 1e-6, type=parse_number(), metavar="RATE"
    )
    min_lr: float = option(
        "learning rate at the end of the cosine", 1e-6, type=parse_number(), metavar="RATE"
    )
    clip_grad: float | None = option(
        "largest gradient; larger ones are scaled or cut as --clip-mode says (default: no limit)",
        None,
        type=parse_number(),
        metavar="LIMIT",
    )
    clip_mode: str = option(
        "quantity that --clip-grad limits: the norm of all gradients together (norm), each single "
        "value (value), or the norm of a gradient divided by the norm of its weight (agc)",
        "norm",
        choices=("norm", "value", "agc"),
    )
    amp_dtype: str | None = option(
        "compute in this number format where PyTorch's autocast allows it (default: everything in "
        "float32)",
        None,
        choices=("bfloat16", "float16"),
    )


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """moving average of the weights"""

    model_ema: bool = option("keep and validate a moving average of the weights, too", False)
    model_ema_decay: float = option(
        "share of the old average that remains at each update",
        0.9999,
        type=parse_number(0, 1),
        metavar="SHARE",
    )
    model_ema_warmup: bool = option(
        "let the share start small and grow to --model-ema-decay", False
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """run"""

    seed: int = option(
        "seed of all random numbers: first weights, order of images, augmentation, dropout",
        42,
        type=parse_integer(0),
        metavar="NUMBER",
    )
    log_interval: int = option(
        "updates between two lines of the log; a long interval lets a GPU work without waiting",
        50,
        may_change=True,
        type=parse_integer(1),
        metavar="UPDATES",
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """files of the run"""

    output: str | None = option(
        "folder for checkpoints, tables and curves (default: runs/MODEL)",
        None,
        may_change=True,
        metavar="DIR",
    )
    resume: bool = option(
        "resume the run that --output holds; with --no-resume, refuse to start if there is one",
        True,
        may_change=True,
    )
    checkpoint_hist: int = option(
        "number of checkpoints of single epochs to keep, those of the best accuracy",
        3,
        may_change=True,
        type=parse_integer(1),
        metavar="CHECKPOINTS",
    )
    checkpoint_interval: int = option(
        "updates between two checkpoints within an epoch; 0: save at the end of each epoch only",
        0,
        may_change=True,
        type=parse_integer(0),
        metavar="UPDATES",
    )


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """validation"""

    checkpoint: str = option(
        "checkpoint of vision.train to measure; required", metavar="FILE", required=True
    )
    ema: bool = option("measure the moving average of the weights, not the weights", False)
    batch_size: int = option(
        "images that one device takes through the model at once",
        256,
        type=parse_integer(1),
        metavar="IMAGES",
    )
    results: str | None = option(
        "file that the numbers are written to, as JSON (default: they are only printed)",
        None,
        metavar="FILE.json",
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The whole configuration of a training run."""

    data: DataConfig
    training_set: TrainingSetConfig
    compute: ComputeConfig
    model: ModelConfig
    weights: WeightsConfig
    optimisation: OptimisationConfig
    ema: EmaConfig
    augmentation: AugmentationConfig
    targets: TargetConfig
    input: InputConfig
    run: RunConfig
    checkpoint: CheckpointConfig

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> TrainingConfig:
        """Makes the configuration of the options of ``vision.train``."""
        parts = get_type_hints(cls)
        return cls(**{name: select_config(kind, options) for name, kind in parts.items()})


TRAINING_PARTS = tuple(get_type_hints(TrainingConfig).values())
VALIDATION_PARTS = (DataConfig, ComputeConfig, ValidationConfig)
