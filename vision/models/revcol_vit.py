"""RevCol-ViT (paper Appendix B.1): reversible columns in place of a vision transformer's blocks.

The stem (patch embedding, positions) and the head with their options are timm's
``VisionTransformer``; the columns are those of the text encoder.
"""
# No `from __future__ import annotations`: torch.fx writes forward's annotations into its code.

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from timm.models import register_notrace_module
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from revcol_nlp.columns.isotropic import IsotropicConfig, build_isotropic_columns
from revcol_nlp.columns.stack import KEEP_COLUMNS, KEYFRAME_BUDGET, RevCol

NUM_LEVELS = len(IsotropicConfig.depths)
# Learnt faster on CIFAR-10 than 0 (Swin V2's) and 1 (LayerNorm's) in 150 updates.
INIT_VALUES = 0.2

# A level of the last column, or (column, level).
Index = int | tuple[int, int]


@register_notrace_module  # for torch.fx, columns are one operation
class TokenColumns(RevCol):
    """Isotropic columns over ``(B, N, C)`` tokens, which `torch.jit.script` can take."""

    def __init__(self, config: IsotropicConfig, **options: Any):
        super().__init__(build_isotropic_columns(config), **options)
        self.config = config

    def __prepare_scriptable__(self) -> torch.jit.ScriptModule:
        """What TorchScript compiles instead: the plain path of evaluation, traced.

        Raises:
            RuntimeError: in training.
        """
        if self.training:
            raise RuntimeError("TorchScript has columns for inference only: call eval() before")
        tokens = next(self.parameters()).new_zeros(2, 3, self.config.dim)
        with torch.no_grad():
            return torch.jit.trace(self, tokens, strict=False)


class RevColViT(VisionTransformer):
    """Images to class logits: patch embedding and positions, reversible columns, and a head that
    pools the last column's top level, normalises it and projects it (paper Appendix B.1).

    Args:
        img_size: height and width of the images, in pixels.
        patch_size: height and width of a patch, in pixels.
        in_chans: channels of the images.
        num_classes: outputs of the head; with 0 the model returns pooled features.
        global_pool: ``avg``, ``avgmax``, ``max``, ``token``, or ``""`` for no pooling.
        embed_dim: channels ``C`` of every level.
        num_heads: attention heads.
        mlp_ratio: hidden width of the feed-forward networks, relative to ``embed_dim``.
        num_columns: number of columns, ``COL``.
        depths: blocks in each level, bottom to top, ``B``; a number stands for all levels.
        reversible: rebuild activations in the backward pass instead of keeping them.
        keep_columns: how many of the last columns keep their activations; see `RevCol`.
        keyframe_budget: growth of rounding errors at which a column's states are kept.
        init_values: what the weights of the norm behind each residual branch start at.
        class_token: put a class token before the patches; every column carries it.
        reg_tokens: number of register tokens before the patches.
        no_embed_class: positions for the patches only.
        dynamic_img_size: take images of other sizes, with the positions resampled to them.
        dynamic_img_pad: pad images to a multiple of the patch size.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout after the positions.
        patch_drop_rate: share of the patches left out in training.
        proj_drop_rate: dropout in feed-forward networks and on residual branches.
        attn_drop_rate: dropout on the attention weights.
        drop_path_rate: stochastic depth in the last block of a column, growing from 0 at its first.
        device, dtype: of the parameters.

    Raises:
        ValueError: if the columns are impossible.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 384,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        num_columns: int = IsotropicConfig.num_columns,
        depths: int | Sequence[int] = IsotropicConfig.depths,
        reversible: bool = True,
        keep_columns: int = KEEP_COLUMNS,
        keyframe_budget: float = KEYFRAME_BUDGET,
        init_values: float = INIT_VALUES,
        class_token: bool = False,
        reg_tokens: int = 0,
        no_embed_class: bool = False,
        dynamic_img_size: bool = False,
        dynamic_img_pad: bool = False,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        patch_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        depths = [depths] * NUM_LEVELS if isinstance(depths, int) else list(depths)
        if len(depths) != NUM_LEVELS:
            raise ValueError(
                f"depths is a number of blocks, or {NUM_LEVELS} of them, one for each "
                f"level; got {depths!r}"
            )
        config = IsotropicConfig(
            dim=embed_dim,
            num_heads=num_heads,
            ffn_dim=int(embed_dim * mlp_ratio),
            num_columns=num_columns,
            depths=tuple(depths),
            project_bottom_up=True,
            init_values=init_values,
            dropout=proj_drop_rate,
            attention_dropout=attn_drop_rate,
            activation_dropout=proj_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            embed_dim=embed_dim,
            depth=0,
            class_token=class_token,
            no_embed_class=no_embed_class,
            reg_tokens=reg_tokens,
            dynamic_img_size=dynamic_img_size,
            dynamic_img_pad=dynamic_img_pad,
            drop_rate=drop_rate,
            pos_drop_rate=pos_drop_rate,
            patch_drop_rate=patch_drop_rate,
            device=device,
            dtype=dtype,
        )
        del self.blocks
        with torch.device(device or torch.get_default_device()):
            self.revcol = TokenColumns(
                config,
                reversible=reversible,
                keep_columns=keep_columns,
                keyframe_budget=keyframe_budget,
            ).to(dtype=dtype)
        self._training_options = (reversible, self.revcol.keep_columns)
        self._set_features([(num_columns - 1, level) for level in range(NUM_LEVELS)])

    def __prepare_scriptable__(self) -> Self:
        """A shallow copy, as torch.jit.script puts the traced columns into what it is given."""
        clone = copy.copy(self)
        clone._modules = dict(self._modules)
        return clone

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Start anew: stem and head as timm's ViT, the columns as they are when made."""
        super().init_weights(mode, needs_reset)
        if hasattr(self, "revcol"):
            with torch.device(self.pos_embed.device):
                self.revcol.load_state_dict(TokenColumns(self.revcol.config).state_dict())

    def _set_features(self, levels: Sequence[tuple[int, int]]) -> None:
        """What ``feature_info`` lists, and what whole numbers as indices stand for."""
        self.feature_levels = list(levels)
        reduction = self.patch_embed.feat_ratio()
        self.feature_info = [
            dict(
                module=f"revcol.columns.{column}.levels.{level}",
                num_chs=self.embed_dim,
                reduction=reduction,
            )
            for column, level in levels
        ]

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not decayed, besides the one-dimensional ones."""
        return super().no_weight_decay() | {"*.logit_scale"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups for layer-wise learning rates: by column, and within it by level.

        Args:
            coarse: by column only.
        """
        depth = r"\.columns\.(\d+)" if coarse else r"\.columns\.(\d+)\.levels\.(\d+)"
        return dict(
            stem=r"^cls_token|reg_token|pos_embed|patch_embed",
            blocks=[(r"^revcol" + depth, None), (r"^norm", (99999,))],
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep nothing in training that can be rebuilt: all columns reversible, none kept.

        Off: as the model was made, by default reversible too, with the last column kept.
        """
        options = (True, 0) if enable else self._training_options
        self.revcol.reversible, self.revcol.keep_columns = options

    def _stem(self, x: Tensor) -> Tensor:
        return self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` images to the last column's top level, ``(B, N, C)``."""
        return self.norm(self.revcol(self._stem(x))[-1])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` images to ``(B, num_classes)`` logits."""
        return self.forward_head(self.forward_features(x))

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Iterable[Index] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Levels of columns, besides the features or alone.

        In training, a reversible model holds every column asked for in memory.

        Args:
            x: ``(B, C, H, W)`` images.
            indices: which levels. A whole number stands for a level of the last column, a pair
                for ``(column, level)``; both may count from the end. ``None``: the last column's
                four levels, bottom to top; a single number: the last so many of these.
            return_prefix_tokens: return pairs of patches and prefix tokens.
            norm: apply the model's final norm (it has one unless it is behind the pooling).
            stop_early: leave out the columns behind the last one asked for; the features are then
                that column's.
            output_fmt: ``NCHW`` or ``NLC``.
            intermediates_only: leave out the features.
            output_dict: a dictionary, as timm's ViT returns it.

        Raises:
            ValueError: for a level that is not there, or an unknown format.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt is NCHW or NLC, not {output_fmt!r}")
        levels = self._levels(indices)
        last = max(column for column, _ in levels)
        if not (stop_early or intermediates_only):
            last = len(self.revcol.columns) - 1
        height, width = x.shape[-2:]
        columns = self.revcol.forward_columns(self._stem(x), None, {last, *(i for i, _ in levels)})

        taken = [self.norm(y) if norm else y for y in (columns[i][level] for i, level in levels)]
        prefix = [y[:, : self.num_prefix_tokens] for y in taken]
        taken = [y[:, self.num_prefix_tokens :] for y in taken]
        if output_fmt == "NCHW":
            grid = self.patch_embed.dynamic_feat_size((height, width))
            taken = [y.transpose(1, 2).unflatten(2, grid).contiguous() for y in taken]

        with_prefix = return_prefix_tokens and self.num_prefix_tokens > 0
        if output_dict:
            found: dict[str, Any] = {"image_intermediates": taken}
            if with_prefix:
                found["image_intermediates_prefix"] = prefix
            if not intermediates_only:
                found["image_features"] = self.norm(columns[last][-1])
            return found
        if with_prefix:
            taken = list(zip(taken, prefix, strict=True))
        return taken if intermediates_only else (self.norm(columns[last][-1]), taken)

    def prune_intermediate_layers(
        self,
        indices: int | Iterable[Index] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the columns behind the last level asked for, and make ``feature_info`` list the
        levels of ``indices``. Levels above it in its own column stay, as its inverse needs them.

        Returns:
            The indices of these levels in the pruned model, ``0, 1, ...``.
        """
        levels = self._levels(indices)
        last = max(column for column, _ in levels)
        self.revcol.columns = self.revcol.columns[: last + 1]
        keep = [min(n, last + 1) for n in (self.revcol.keep_columns, self._training_options[1])]
        self.revcol.keep_columns = keep[0]
        self._training_options = (self._training_options[0], keep[1])
        self._set_features(levels)
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0, "")
        return list(range(len(levels)))

    def _levels(self, indices: int | Iterable[Index] | None) -> list[tuple[int, int]]:
        """``(column, level)`` of each index."""
        count = len(self.feature_levels)
        if indices is None:
            return list(self.feature_levels)
        if isinstance(indices, int):
            if not 1 <= indices <= count:
                raise ValueError(f"the last {indices} of {count} levels cannot be taken")
            return self.feature_levels[-indices:]
        found, num_columns = [], len(self.revcol.columns)
        for index in indices:
            try:
                if isinstance(index, int):
                    found.append(self.feature_levels[index])
                else:
                    column, level = index
                    found.append((range(num_columns)[column], range(NUM_LEVELS)[level]))
            except IndexError:
                raise ValueError(
                    f"no level {index}: a whole number is below {count}, a pair names one of "
                    f"{num_columns} columns and one of {NUM_LEVELS} levels"
                ) from None
        if not found:
            raise ValueError("indices names no level")
        return found

    def get_intermediate_layers(self, *args: Any, **kwargs: Any) -> None:
        """timm's ViT has it for DINO's callers; here it is `forward_intermediates`.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("use forward_intermediates, which takes levels of columns")
