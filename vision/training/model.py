"""A timm model as the options ask for it, with its first weights."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import timm
import torch
from timm.models import resolve_model_input_args
from torch import nn

from vision.training.checkpoints import read_weights
from vision.training.errors import UserError
from vision.training.options import nearest


def create(args: Namespace, num_classes: int, **kwargs: Any) -> nn.Module:
    """The model that ``args`` names.

    Raises:
        UserError: if timm has no such model, or it does not take these options.
    """
    if not timm.is_model(args.model):
        raise UserError(
            f"timm has no model {args.model!r}{nearest(args.model, timm.list_models())}"
        )
    options = dict(args.model_kwargs, drop_rate=args.drop, drop_path_rate=args.drop_path)
    try:
        # Options that are None are the model's to choose.
        resolved = resolve_model_input_args(args.model, {"img_size": args.img_size}, **options)
        return timm.create_model(**resolved, num_classes=num_classes, **kwargs)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{args.model} cannot be made with these options: {reason}") from None


def create_for_training(args: Namespace, num_classes: int) -> nn.Module:
    """The model that ``args`` names, with the weights to start from.

    Raises:
        UserError: as `create`, or if the weights do not fit.
    """
    if args.pretrained_path:
        count = _classes_in(read_weights(args.pretrained_path), args)
        overlay = {"file": args.pretrained_path, "num_classes": count}
        model = create(args, num_classes, pretrained=True, pretrained_cfg_overlay=overlay)
    else:
        model = create(args, num_classes)
    if args.initial_checkpoint:
        weights = read_weights(args.initial_checkpoint)
        count = _classes_in(weights, args)
        if count not in (-1, num_classes):
            raise UserError(
                f"{args.initial_checkpoint} has {count} classes and the model {num_classes}: "
                "--pretrained-path would replace the head"
            )
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(
                f"{args.initial_checkpoint} does not fit {args.model}: {reason}"
            ) from None
    if args.head_init_scale is not None:
        head = list(model.get_classifier().parameters())
        if not head:
            raise UserError(f"--head-init-scale: {args.model} has no head with weights")
        with torch.no_grad():
            for weight in head:
                weight.mul_(args.head_init_scale)
    return model


def _classes_in(weights: dict[str, torch.Tensor], args: Namespace) -> int:
    """How many classes the head in ``weights`` tells apart; -1 where it has no head."""
    classifier = getattr(timm.get_pretrained_cfg(args.model), "classifier", None)
    weight = weights.get(f"{classifier}.weight")
    return -1 if weight is None else len(weight)
