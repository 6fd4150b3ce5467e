"""How weights are updated: timm's optimizer, with its schedule, loss scaling and clipping."""

from __future__ import annotations

from argparse import Namespace

import torch
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2
from timm.utils import NativeScaler, dispatch_clip_grad
from torch import Tensor, nn

from vision.training.errors import UserError


class Optimisation:
    """Updates the weights of ``network`` as the options say.

    Args:
        args: options of a run.
        network: whose weights are updated.
        updates: per epoch.
        device: which the loss is scaled on, for float16.

    Raises:
        UserError: if the optimizer does not take these options.
    """

    def __init__(self, args: Namespace, network: nn.Module, updates: int, device: torch.device):
        self.network = network
        self.clip_grad, self.clip_mode = args.clip_grad, args.clip_mode
        options = optimizer_kwargs(args).items()
        try:
            self.optimizer = create_optimizer_v2(
                network, **{name: value for name, value in options if value is not None}
            )
        except Exception as error:  # of as many kinds as there are optimizers
            reason = " ".join(str(error).split())
            raise UserError(f"--opt {args.opt} does not take these options: {reason}") from None
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer,
            sched=args.sched,
            num_epochs=args.epochs - args.warmup_epochs,
            warmup_epochs=args.warmup_epochs,
            warmup_prefix=True,  # the decay starts from the peak
            warmup_lr=args.warmup_lr,
            min_lr=args.min_lr,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )
        self.scaler = NativeScaler(device.type) if args.amp_dtype == "float16" else None

    @property
    def lr(self) -> float:
        """The largest learning rate of all weights."""
        return max(group["lr"] for group in self.optimizer.param_groups)

    def backward(self, loss: Tensor, step: bool) -> None:
        """Adds the gradients of ``loss``; with ``step``, updates the weights by their sum."""
        if self.scaler:
            self.scaler(
                loss,
                self.optimizer,
                clip_grad=self.clip_grad,
                clip_mode=self.clip_mode,
                parameters=self.network.parameters(),
                need_update=step,
            )
            return
        loss.backward()
        if step:
            if self.clip_grad is not None:
                dispatch_clip_grad(self.network.parameters(), self.clip_grad, mode=self.clip_mode)
            self.optimizer.step()

    def may_scale_down(self) -> bool:
        """Whether scaling the loss less may yet mend one that is not finite."""
        return self.scaler is not None and self.scaler.state_dict()["scale"] >= 1

    def load(self, state: dict) -> None:
        """Takes up the state in a checkpoint."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler:
            self.scaler.load_state_dict(state[self.scaler.state_dict_key])
