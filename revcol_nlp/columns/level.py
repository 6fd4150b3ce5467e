"""A level of a column: the network ``F``, the scale ``gamma``, and Eq. 3 for this one level.

Notation as in the paper: column ``i``, level ``l``, and ``F[i][l]`` the network of a level (in the
paper a fusion, then blocks; here any module). There is no custom autograd function in this file;
``reversible.py`` has the one that rebuilds levels in the backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .compilation import compiled, raised_recompile_limit
from .precision import Precision
from .states import (
    Grid,
    State,
    differentiate_update,
    invert_update,
    measure_shift,
    read_state,
    unguard_state,
    update_state,
)

GAMMA_INIT = 0.5
GAMMA_MIN = 1e-3

LevelKwargs = Mapping[str, Any]
# What a level reads: the stem's output (a Tensor), a state, or nothing.
LevelInput = Tensor | State | None


class Level(nn.Module):
    """One level of one column: the network ``F`` and the channel-wise scale ``gamma``.

    Args:
        network: the paper's ``F``, called as ``network(below, above, **level_kwargs)``; ``above``
            is ``None`` where the level has no top-down input. It returns a tensor of the state's
            shape; other levels may have other shapes. README.md says what it may not do.
        num_channels: channels ``C`` of the state, and the length of ``gamma``.
        channel_dim: where the state has its channels: -1 for ``(B, T, C)``, -3 or 1 for
            ``(B, C, H, W)``.

    Raises:
        TypeError: if ``network`` is no module or ``num_channels`` no whole number.
        ValueError: if ``num_channels`` is below 1 or ``channel_dim`` is 0, the batch.
    """

    def __init__(self, network: nn.Module, num_channels: int, *, channel_dim: int = -1):
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"a level's network must be a torch module, not {network!r}")
        if not isinstance(num_channels, int):
            raise TypeError(
                f"num_channels must be the number of a state's channels, not {num_channels!r}; "
                "channel_dim says which dimension of the state they are"
            )
        if num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}")
        if channel_dim == 0:
            raise ValueError("channel_dim 0 is the batch; for (B, C, H, W) take 1, or -3")
        self.network = network
        self.num_channels = num_channels
        self.channel_dim = channel_dim
        self.compile_options: dict[str, Any] | None = None
        # Whether a second run of the network was found to repeat the first (`rerun.py`).
        self.repeats = False
        # One-dimensional whatever the state's shape: optimisers do not decay such parameters.
        self.gamma = nn.Parameter(torch.full((num_channels,), GAMMA_INIT))

    def extra_repr(self) -> str:
        return f"num_channels={self.num_channels}, channel_dim={self.channel_dim}"

    def bounded_gamma(self) -> Tensor:
        """``gamma`` with ``|gamma| >= 1e-3``, its sign kept (paper section 2.2.2); ``(C,)``.

        The bound acts where gamma is read, and passes gradients on as they are, so that a gamma
        at the bound can leave it again. (The authors' code clamps the parameter in place.)
        """
        raw = self.gamma.detach()
        bounded = torch.where(raw < 0, raw.clamp(max=-GAMMA_MIN), raw.clamp(min=GAMMA_MIN))
        return self.gamma + (bounded - raw)

    def _scale(self, ndim: int) -> Tensor:
        """gamma in a shape that broadcasts against a state of ``ndim`` dimensions."""
        shape = [1] * ndim
        shape[self.channel_dim] = self.num_channels
        return self.bounded_gamma().view(shape)

    def forward(
        self,
        inputs: Sequence[LevelInput],
        previous: State | None,
        level_kwargs: LevelKwargs,
        precision: Precision,
        grid: Grid,
        run: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Eq. 3 for one level: ``x[i][l] = F[i][l]( inputs ) + gamma[i][l] * x[i-1][l]``.

        Args:
            inputs: what the network reads, as `Column.level_inputs` returns it.
            previous: the state ``x[i-1][l]``; ``None`` in the first column.
            level_kwargs: keyword arguments of the network.
            precision: of this forward pass.
            grid: of the state that is made; its shift is filled in.
            run: computes the same and keeps nothing for the backward pass (`reversible.py`).

        Returns:
            the exact state, in the dtype ``precision.state``.
        """
        if run is not None:
            return run(self, inputs, previous, level_kwargs, grid)
        # Tensors as views: what the network adds up to a gradient of one is then added to those of
        # other levels in one step, as in reversible.py. Sums in another order have other bits.
        read = [read_state(x, precision) if isinstance(x, State) else _view(x) for x in inputs]
        y = self.run_network(read, tree_map(_view, dict(level_kwargs)))
        return self.update(y, previous, precision, grid)

    def run_network(self, inputs: Sequence[Tensor | None], level_kwargs: LevelKwargs) -> Tensor:
        """``F( inputs )``, checked.

        Raises:
            TypeError: if the network does not take these inputs, or returns no tensor.
            ValueError: if its output has another shape than the level's states.
            RuntimeError: if it writes into an input.
        """
        checks = not torch.compiler.is_compiling()
        if checks:
            inputs = [_copy_with_version(x) if _is_inference(x) else x for x in inputs]
            versions = [x if x is None else x._version for x in inputs]
        try:
            with nullcontext() if self.compile_options is None else raised_recompile_limit():
                y = self.network(*inputs, **level_kwargs)
        except TypeError as error:
            self._explain_signature(inputs, level_kwargs, error)
            raise
        except RuntimeError as error:
            if "in-place operation" in str(error):
                raise RuntimeError(f"{WRITES_INTO_INPUTS}: {error}") from error
            raise
        if checks and versions != [x if x is None else x._version for x in inputs]:
            raise RuntimeError(WRITES_INTO_INPUTS)
        if not isinstance(y, Tensor):
            raise TypeError(
                f"a level's network must return one tensor, F in Eq. 3; "
                f"{type(self.network).__name__} returned {type(y).__name__}"
            )
        dim = self.channel_dim % y.dim() if -y.dim() <= self.channel_dim < y.dim() else 0
        if dim == 0 or y.shape[dim] != self.num_channels:
            raise ValueError(
                f"{type(self.network).__name__} returned a tensor of shape {tuple(y.shape)}; its "
                f"level was made for {self.num_channels} channels in dimension {self.channel_dim}"
            )
        return y

    def _explain_signature(
        self, inputs: Sequence[Tensor | None], level_kwargs: LevelKwargs, error: TypeError
    ) -> None:
        try:
            inspect.signature(self.network.forward).bind(*inputs, **level_kwargs)
        except TypeError as mismatch:
            names = ["below", "above", *(f"input {n}" for n in range(2, len(inputs)))]
            raise TypeError(
                f"{type(self.network).__name__}.forward does not take what a level gives it "
                f"({', '.join(names[: len(inputs)])}; keyword arguments: "
                f"{', '.join(level_kwargs) or 'none'}): {mismatch}"
            ) from error

    def update(self, y: Tensor, previous: State | None, precision: Precision, grid: Grid) -> Tensor:
        """The exact state ``x[i][l]`` from ``y``, the network's output, and ``x[i-1][l]``."""
        run = compiled(update_state, self.compile_options)
        exact = None if previous is None else previous.exact
        if exact is not None and exact.shape != y.shape:
            raise ValueError(
                f"{type(self.network).__name__} returned a tensor of shape {tuple(y.shape)}, and "
                f"the previous column's state at this level has {tuple(exact.shape)}"
            )
        scale = None if exact is None else self._scale(y.dim())
        made, grid.shift = run(y, scale, exact, precision, self.channel_dim)
        return made

    def unguard(self, state: State, precision: Precision) -> Tensor:
        """``x[i][l]`` without its guard: the first step of taking `update` back."""
        x, grid = state
        if not precision.rounds:
            return x.clone()
        if grid.shift is None:
            grid.shift = measure_shift(x, grid.channel_dim)
        return compiled(unguard_state, self.compile_options)(x, grid.shift)

    def invert(self, x: Tensor, y: Tensor) -> Tensor:
        """The exact state ``x[i-1][l]`` from ``x[i][l]``, unguarded, and the network's output."""
        run = compiled(invert_update, self.compile_options)
        return run(x, y, self._scale(y.dim()))

    def differentiate(self, grad: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `update` with respect to ``previous`` and ``gamma``."""
        run = compiled(differentiate_update, self.compile_options)
        previous_grad, scale_grad = run(grad, previous, self._scale(grad.dim()))
        return previous_grad, scale_grad.view(-1).to(self.gamma.dtype)

    def compile_parts(self, **options: Any) -> None:
        """Compile the network and the state's arithmetic, by ``torch.compile(..., **options)``."""
        self.network.compile(**options)
        self.compile_options = options


def _view(x: Any) -> Any:
    return x.view_as(x) if isinstance(x, Tensor) and x.requires_grad else x


def _is_inference(x: Tensor | None) -> bool:
    return x is not None and x.is_inference()


@torch.inference_mode(False)
def _copy_with_version(x: Tensor) -> Tensor:
    """A copy of a tensor of inference mode: it counts writes into it, as ``x`` does not."""
    return x.clone()


WRITES_INTO_INPUTS = (
    "a level's network wrote into one of its inputs, which other levels read too: write "
    "`below = below + above` in place of `below += above`, and put no in-place activation first"
)
