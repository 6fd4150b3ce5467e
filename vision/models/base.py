"""The base of all RevCol vision models: features by column and level, and timm's conventions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from timm.models import register_notrace_module
from torch import Tensor, nn

from revcol_nlp.columns import Column, Level, RevCol
from revcol_nlp.columns.attention import FeedForward

# A level of the last column, or (column, level).
FeatureIndex = int | tuple[int, int]


@register_notrace_module  # torch.fx records the columns as one operation
class TimmRevCol(RevCol):
    """The `RevCol` of a timm model, with what `torch.fx`, TorchScript and timm ask of a module.

    Args:
        build_columns: makes the columns, with new weights at each call.
        stem_shape: shape of a small stem output, with which TorchScript traces the columns.
        options: ``reversible``, ``keep_columns`` and ``keyframe_budget`` of `RevCol`, which has
            their defaults; ``None`` stands for them.
    """

    def __init__(
        self, build_columns: Callable[[], list[Column]], stem_shape: Sequence[int], **options: Any
    ):
        given = {name: value for name, value in options.items() if value is not None}
        super().__init__(build_columns(), **given)
        self.build_columns = build_columns
        self.stem_shape = tuple(stem_shape)

    def init_weights(self) -> None:
        """Initialise all weights again, in place; timm calls it after ``to_empty()``.

        Only the function that builds columns knows how their weights begin. So it builds new
        columns, whose weights are copied.
        """
        with torch.device(next(self.parameters()).device):
            new_columns = RevCol(self.build_columns()).columns
        for column, new_column in zip(self.columns, new_columns, strict=False):  # some are pruned
            column.load_state_dict(new_column.state_dict())

    def __prepare_scriptable__(self) -> torch.jit.ScriptModule:
        """Give `torch.jit.script` a trace, because it cannot compile the columns' code.

        Raises:
            RuntimeError: in training mode, which cannot be traced.
        """
        if self.training:
            raise RuntimeError(
                "torch.jit.script takes RevCol for inference only: call eval() first"
            )
        with torch.no_grad():
            stem_output = next(self.parameters()).new_zeros(self.stem_shape)
            return torch.jit.trace(self, stem_output, strict=False)


class RevColVisionModel(nn.Module):
    """Base of timm models that consist of a stem, the columns of a `TimmRevCol`, and a head.

    It gives a model features by column and level, pruning, parameter groups, and gradient
    checkpointing. A subclass calls `set_columns` at the end of its constructor, and defines
    `forward_stem`, `describe_level` and ``stem_pattern``. Where its states are not ``(B, C, H, W)``
    feature maps, it overrides `format_features` and ``feature_formats`` too.

    Attributes:
        revcol: the columns.
        norm: applied to the last column's top level before pooling; an identity if the head
            normalises.
        stem_pattern: regular expression that matches the names of the stem's parameters.
        feature_formats: values that `forward_intermediates` accepts as ``output_fmt``.
        feature_levels: ``(column, level)`` of each entry of ``feature_info``.
        feature_info: channels, reduction and module of each level in ``feature_levels``.
    """

    # Without annotations: torch.jit.script would compile those of attributes.
    feature_formats = ("NCHW",)

    def forward_stem(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` images to the stem output, which every column starts from."""
        raise NotImplementedError

    def describe_level(self, level: int) -> tuple[int, int]:
        """Channels of a level's states, and how many pixels apart their positions are."""
        raise NotImplementedError

    def format_features(
        self, states: list[Tensor], image_size: tuple[int, int], output_fmt: str
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Feature maps in ``output_fmt`` and prefix tokens of level states.

        Args:
            states: states of levels.
            image_size: height and width of the images, in pixels.
            output_fmt: one of ``feature_formats``.
        """
        return states, []

    def set_columns(self, revcol: TimmRevCol) -> None:
        """Set ``revcol``, with its last column's levels as the model's features."""
        self.revcol = revcol
        self._training_options = (revcol.reversible, revcol.keep_columns)
        last = len(revcol.columns) - 1
        self._set_features([(last, level) for level in range(revcol.num_levels)])

    def forward_levels(
        self, stem_output: Tensor, levels: Iterable[tuple[int, int]]
    ) -> dict[tuple[int, int], Tensor]:
        """States of ``levels``, by ``(column, level)``; columns after the last one do not run."""
        return self.revcol.forward_columns(stem_output, levels)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Iterable[FeatureIndex] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Compute states of levels, with the features of `forward_features` or alone.

        In training, nothing is kept in memory for them but what is returned.

        Args:
            x: ``(B, C, H, W)`` images.
            indices: which levels. An integer is an index into ``feature_levels``, which are the
                last column's levels, bottom to top, unless the model was pruned. A pair is
                ``(column, level)``. Both may count from the end. ``None`` takes all of
                ``feature_levels``, a single integer ``n`` the last ``n`` of them.
            return_prefix_tokens: return pairs of a feature map and its prefix tokens, if the model
                has prefix tokens.
            norm: apply ``norm`` to the states. It is an identity in models that normalise after
                pooling.
            stop_early: do not run the columns after the last one asked for. The features returned
                are then that column's.
            output_fmt: one of the model's ``feature_formats``.
            intermediates_only: return the levels alone. Then the columns after the last one asked
                for do not run either.
            output_dict: return a dictionary with ``image_intermediates``, ``image_features`` and
                ``image_intermediates_prefix``, as timm's models do.

        Returns:
            The features and a list of the levels in the order of ``indices``, or the list alone.

        Raises:
            ValueError: if a level does not exist, or the format is unknown.
        """
        if output_fmt not in self.feature_formats:
            formats = " or ".join(self.feature_formats)
            raise ValueError(f"output_fmt must be {formats}, got {output_fmt!r}")
        levels = self._find_levels(indices)
        last = max(column for column, _ in levels) if stop_early else len(self.revcol.columns) - 1
        top = (last, self.revcol.num_levels - 1)
        states = self.forward_levels(
            self.forward_stem(x), levels if intermediates_only else [*levels, top]
        )
        taken = [self.norm(states[level]) if norm else states[level] for level in levels]
        taken, prefix = self.format_features(taken, x.shape[-2:], output_fmt)

        if output_dict:
            found: dict[str, Any] = {"image_intermediates": taken}
            if return_prefix_tokens and prefix:
                found["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                found["image_features"] = self.norm(states[top])
            return found
        if return_prefix_tokens and prefix:
            taken = list(zip(taken, prefix, strict=True))
        return taken if intermediates_only else (self.norm(states[top]), taken)

    def prune_intermediate_layers(
        self,
        indices: int | Iterable[FeatureIndex] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the columns after the last level asked for, and make ``feature_info`` list the
        levels of ``indices``.

        Higher levels of that level's own column stay, because its inverse needs them.

        Args:
            indices: which levels; see `forward_intermediates`.
            prune_norm: remove ``norm`` too.
            prune_head: remove the head too.

        Returns:
            The indices of these levels in the pruned model, ``0, 1, ...``.
        """
        levels = self._find_levels(indices)
        num_columns = 1 + max(column for column, _ in levels)
        self.revcol.columns = self.revcol.columns[:num_columns]
        self.revcol.keep_columns = min(self.revcol.keep_columns, num_columns)
        self._set_features(levels)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.remove_head()
        return list(range(len(levels)))

    def remove_head(self) -> None:
        """Remove the head, so that the model returns features without pooling."""
        self.reset_classifier(0, "")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep no activations in training that can be rebuilt.

        All columns are then reversible, none keeps its activations, and feed-forward networks
        compute their nonlinearity again. With ``enable=False`` the model trains as it was made: by
        default reversible too, with the last column kept.
        """
        for module in self.modules():
            if isinstance(module, FeedForward):
                module.recompute_activation = enable
        reversible, keep_columns = (True, 0) if enable else self._training_options
        self.revcol.reversible = reversible
        self.revcol.keep_columns = min(keep_columns, len(self.revcol.columns))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: by column, then level.

        Args:
            coarse: by column only.
        """
        blocks = r"^revcol\.columns\.(\d+)" + ("" if coarse else r"\.levels\.(\d+)")
        # timm puts what 99999 matches into the group before it: the last level's.
        return dict(stem=self.stem_pattern, blocks=[(blocks, None), (r"^norm", (99999,))])

    def no_weight_decay(self) -> set[str]:
        """Names of each level's ``gamma``, whatever its shape.

        timm and torch users exempt one-dimensional parameters from weight decay, as ``gamma`` is;
        named here, it is exempt whatever the rule. Decay would make inverses less stable.
        """
        gammas = {id(module.gamma) for module in self.modules() if isinstance(module, Level)}
        return {name for name, parameter in self.named_parameters() if id(parameter) in gammas}

    def __prepare_scriptable__(self) -> Self:
        """Give `torch.jit.script` a shallow copy, because it replaces modules in what it gets."""
        clone = copy.copy(self)
        clone._modules = dict(self._modules)
        return clone

    def _set_features(self, levels: Iterable[tuple[int, int]]) -> None:
        self.feature_levels = list(levels)
        self.feature_info = []
        for column, level in self.feature_levels:
            channels, reduction = self.describe_level(level)
            module = f"revcol.columns.{column}.levels.{level}"
            self.feature_info.append(dict(module=module, num_chs=channels, reduction=reduction))

    def _find_levels(self, indices: int | Iterable[FeatureIndex] | None) -> list[tuple[int, int]]:
        """``(column, level)`` of each index."""
        count = len(self.feature_levels)
        if indices is None:
            return list(self.feature_levels)
        if isinstance(indices, int):
            if not 1 <= indices <= count:
                raise ValueError(f"indices must be between 1 and {count} levels, got {indices}")
            return self.feature_levels[-indices:]
        num_columns, num_levels = len(self.revcol.columns), self.revcol.num_levels
        found = []
        for index in indices:
            try:
                if isinstance(index, int):
                    found.append(self.feature_levels[index])
                else:
                    column, level = index
                    found.append((range(num_columns)[column], range(num_levels)[level]))
            except IndexError:
                raise ValueError(
                    f"there is no level {index}: an integer must be below {count}, and a pair must "
                    f"name one of {num_columns} columns and one of {num_levels} levels"
                ) from None
        if not found:
            raise ValueError("indices must name at least one level, got none")
        return found
