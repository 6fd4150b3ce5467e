"""Builds the model, and the optimizer with its schedule, from their configurations."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import resolve_model_input_args
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import NativeScaler, dispatch_clip_grad
from torch import Tensor, nn
from torch.optim import Optimizer

from vision.training.checkpoints import keep_safe_globals, read_weights
from vision.training.command import UserError, describe_error, suggest_name
from vision.training.configs import ModelConfig, OptimisationConfig, WeightsConfig


def build_model(config: ModelConfig, num_classes: int, **kwargs: Any) -> nn.Module:
    """Builds a timm model with random weights.

    Args:
        config: name and options of the model.
        num_classes: of the classifier.
        kwargs: further arguments of ``timm.create_model``.

    Raises:
        UserError: if timm has no such model, or the model does not take these options.
    """
    name = config.model
    if not timm.is_model(name):
        raise UserError(f"timm has no model {name!r}{suggest_name(name, timm.list_models())}")
    # An option that is None is left to the model.
    options = dict(config.model_kwargs, drop_rate=config.drop, drop_path_rate=config.drop_path)
    try:
        resolved = resolve_model_input_args(name, {"img_size": config.img_size}, **options)
        return timm.create_model(**resolved, num_classes=num_classes, **kwargs)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{name} cannot be made with these options: {describe_error(error)}"
        ) from None


def build_initial_model(config: ModelConfig, weights: WeightsConfig, num_classes: int) -> nn.Module:
    """Builds a model with the weights that training starts from.

    Raises:
        UserError: as `build_model`, or if the weights do not fit.
    """
    if weights.pretrained_path:
        model = _build_pretrained(config, weights.pretrained_path, num_classes)
    else:
        model = build_model(config, num_classes)
    if weights.initial_checkpoint:
        _load_initial_weights(model, config, weights.initial_checkpoint, num_classes)
    if weights.head_init_scale is not None:
        _scale_head(model, config.model, weights.head_init_scale)
    return model


def _build_pretrained(config: ModelConfig, file: str, num_classes: int) -> nn.Module:
    """Lets timm replace the classifier and resample positions where shapes differ."""
    count = _count_classes(read_weights(file), config.model)
    overlay = {"file": file, "num_classes": count}
    with keep_safe_globals():
        return build_model(config, num_classes, pretrained=True, pretrained_cfg_overlay=overlay)


def _load_initial_weights(
    model: nn.Module, config: ModelConfig, file: str, num_classes: int
) -> None:
    weights = read_weights(file)
    count = _count_classes(weights, config.model)
    if count not in (-1, num_classes):
        raise UserError(
            f"{file} has {count} classes and the model {num_classes}: use --pretrained-path, which "
            "replaces the classifier"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{file} does not fit {config.model}: {describe_error(error)}") from None


def _count_classes(weights: dict[str, Tensor], model: str) -> int:
    """Returns the number of classes of the classifier in ``weights``; -1 if there is none."""
    classifier = getattr(timm.get_pretrained_cfg(model), "classifier", None)
    weight = weights.get(f"{classifier}.weight")
    return -1 if weight is None else len(weight)


def _scale_head(model: nn.Module, name: str, factor: float) -> None:
    head = list(model.get_classifier().parameters())
    if not head:
        raise UserError(f"--head-init-scale: {name} has no classifier with weights")
    with torch.no_grad():
        for weight in head:
            weight.mul_(factor)


class Optimisation:
    """Updates weights: timm's optimizer with its schedule, loss scaling and clipping.

    Args:
        network: that is trained.
        optimizer: of its weights.
        scheduler: of the learning rate, by updates.
        scaler: of the loss, for float16.
        clip_grad: largest gradient, or None.
        clip_mode: what that limits, in timm's terms.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        scheduler: Scheduler,
        scaler: NativeScaler | None,
        clip_grad: float | None,
        clip_mode: str,
    ):
        self.network = network
        self.optimizer, self.scheduler, self.scaler = optimizer, scheduler, scaler
        self.clip_grad, self.clip_mode = clip_grad, clip_mode

    @property
    def lr(self) -> float:
        """The largest learning rate of all weights."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def backward(self, loss: Tensor, update: bool) -> None:
        """Adds the gradients of ``loss`` to those there are; with ``update``, steps by the sum.

        It does not wait for the device, except for float16: torch's GradScaler reads at each step
        whether a gradient overflowed.
        """
        if self.scaler:
            self.scaler(
                loss,
                self.optimizer,
                clip_grad=self.clip_grad,
                clip_mode=self.clip_mode,
                parameters=self.network.parameters(),
                need_update=update,
            )
            return
        loss.backward()
        if update:
            if self.clip_grad is not None:
                dispatch_clip_grad(self.network.parameters(), self.clip_grad, mode=self.clip_mode)
            self.optimizer.step()

    def can_lower_loss_scale(self) -> bool:
        """True if a loss that is not finite may become finite with a smaller loss scale."""
        return self.scaler is not None and self.scaler.state_dict()["scale"] >= 1

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the state that a checkpoint holds."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler:
            self.scaler.load_state_dict(state[self.scaler.state_dict_key])


def build_optimisation(
    config: OptimisationConfig, network: nn.Module, updates_per_epoch: int, device: torch.device
) -> Optimisation:
    """Builds timm's optimizer and schedule for ``network``.

    Raises:
        UserError: if the optimizer does not take these options.
    """
    given = {
        "opt": config.opt,
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "momentum": config.momentum,
        "eps": config.opt_eps,
        "betas": config.opt_betas,
        "layer_decay": config.layer_decay,
    }
    try:
        optimizer = create_optimizer_v2(
            network, **{name: value for name, value in given.items() if value is not None}
        )
    except Exception as error:  # of as many kinds as there are optimizers
        raise UserError(
            f"--opt {config.opt} does not take these options: {describe_error(error)}"
        ) from None
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.sched,
        num_epochs=config.epochs - config.warmup_epochs,
        warmup_epochs=config.warmup_epochs,
        warmup_prefix=True,  # the cosine starts after the warm-up, at the peak
        warmup_lr=config.warmup_lr,
        min_lr=config.min_lr,
        step_on_epochs=False,
        updates_per_epoch=updates_per_epoch,
    )
    scaler = NativeScaler(device.type) if config.amp_dtype == "float16" else None
    return Optimisation(network, optimizer, scheduler, scaler, config.clip_grad, config.clip_mode)
