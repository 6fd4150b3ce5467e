"""RevCol-ViT (paper Appendix B.1): reversible columns in place of a vision transformer's blocks."""
# No `from __future__ import annotations`: torch.fx writes forward's annotations into its code.

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from revcol_nlp.columns import IsotropicConfig, build_isotropic_columns
from vision.models.base import RevColVisionModel, TimmRevCol

NUM_LEVELS = len(IsotropicConfig.depths)
# Learnt faster on CIFAR-10 than 0 (Swin V2's) and 1 (LayerNorm's) in 150 updates.
INIT_VALUES = 0.2


class RevColViT(RevColVisionModel, VisionTransformer):
    """Images to class logits: patch embedding and positions, reversible columns, and a head that
    pools the last column's top level, normalises it and projects it (paper Appendix B.1).

    The class inherits timm's ``VisionTransformer`` for its stem and its head. Composing them from
    ``timm.layers`` would repeat a hundred lines of timm's: class and register tokens, resampling of
    positions, replacing the head, changing the input size. These methods differ from timm's:

    - There are no ``blocks``; ``revcol`` takes their place.
    - `forward` and `forward_features` take no ``attn_mask`` and no ``is_causal``.
    - The methods of `RevColVisionModel` replace those on features and parameter groups.

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
        depths: blocks in each level, bottom to top, ``B``; an integer stands for all levels.
        reversible: rebuild activations in the backward pass instead of keeping them.
        keep_columns: how many of the last columns keep their activations; `RevCol`'s default if
            ``None``.
        keyframe_budget: growth of rounding errors at which a column's states are kept; `RevCol`'s
            default if ``None``.
        init_values: initial weights of the norm after each residual branch.
        class_token: put a class token before the patches; every column carries it.
        reg_tokens: number of register tokens before the patches.
        no_embed_class: positions for the patches only.
        dynamic_img_size: take images of other sizes, with the positions resampled to them.
        dynamic_img_pad: pad images to a multiple of the patch size.
        fc_norm: normalise after pooling instead of before. By default, all poolings but ``token``
            and ``""`` do.
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

    stem_pattern = r"^(?:cls_token|reg_token|pos_embed|patch_embed)"
    feature_formats = ("NCHW", "NLC")

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
        keep_columns: int | None = None,
        keyframe_budget: float | None = None,
        init_values: float = INIT_VALUES,
        class_token: bool = False,
        reg_tokens: int = 0,
        no_embed_class: bool = False,
        dynamic_img_size: bool = False,
        dynamic_img_pad: bool = False,
        fc_norm: bool | None = None,
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
                f"depths must be a number of blocks, or {NUM_LEVELS} numbers, one for each level; "
                f"got {depths!r}"
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
            fc_norm=fc_norm,
            drop_rate=drop_rate,
            pos_drop_rate=pos_drop_rate,
            patch_drop_rate=patch_drop_rate,
            device=device,
            dtype=dtype,
        )
        del self.blocks
        with torch.device(device or torch.get_default_device()):
            revcol = TimmRevCol(
                partial(build_isotropic_columns, config),
                stem_shape=(2, 3, embed_dim),
                reversible=reversible,
                keep_columns=keep_columns,
                keyframe_budget=keyframe_budget,
            )
        self.set_columns(revcol.to(dtype=dtype))

    def forward_stem(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` images to ``(B, N, C)`` tokens, prefix tokens first."""
        return self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` images to the last column's top level, ``(B, N, C)``."""
        return self.norm(self.revcol(self.forward_stem(x))[-1])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` images to ``(B, num_classes)`` logits."""
        return self.forward_head(self.forward_features(x))

    def describe_level(self, level: int) -> tuple[int, int]:
        """All levels have the same channels, and a position for each patch."""
        return self.embed_dim, self.patch_embed.feat_ratio()

    def format_features(
        self, states: list[Tensor], image_size: tuple[int, int], output_fmt: str
    ) -> tuple[list[Tensor], list[Tensor]]:
        """``(B, N, C)`` states to patches, ``(B, C, H, W)`` or ``(B, N, C)``, and prefix tokens."""
        count = self.num_prefix_tokens
        prefix = [state[:, :count] for state in states] if count else []
        patches = [state[:, count:] for state in states]
        if output_fmt == "NCHW":
            grid = self.patch_embed.dynamic_feat_size(tuple(image_size))
            patches = [x.transpose(1, 2).unflatten(2, grid).contiguous() for x in patches]
        return patches, prefix

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> list[Any]:
        """DINO's name for `forward_intermediates`; ``n`` are its ``indices``."""
        return self.forward_intermediates(
            x,
            n,
            return_prefix_tokens,
            norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
        )

    def remove_head(self) -> None:
        """Remove the head and its norm, so that the model returns features without pooling."""
        self.fc_norm = nn.Identity()
        super().remove_head()

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that get no weight decay, besides the one-dimensional ones:
        positions, prefix tokens, gammas, and the temperatures of attention."""
        names = VisionTransformer.no_weight_decay(self) | super().no_weight_decay()
        return names | {"*.logit_scale"}


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "fixed_input_size": True,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "mit",
        **kwargs,
    }


_CIFAR = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2470, 0.2435, 0.2616),
}

# No weights are published for any of them.
default_cfgs = generate_default_cfgs(
    {
        "revcol_vit_small_patch16_224": _cfg(),
        "revcol_vit_base_patch16_224": _cfg(),
        "revcol_vit_base_col1_patch16_224": _cfg(),
        "revcol_vit_base_col2_patch16_224": _cfg(),
        "revcol_vit_base_col4_patch16_224": _cfg(),
        "revcol_vit_base_col8_patch16_224": _cfg(),
        "revcol_vit_tiny_patch4_32": _cfg(**_CIFAR),
        "revcol_vit_pico_patch4_32": _cfg(**_CIFAR),
        "test_revcol_vit": _cfg(input_size=(3, 64, 64), crop_pct=0.95),
    }
)


def _create(variant: str, pretrained: bool, size: dict[str, Any], **kwargs: Any) -> RevColViT:
    """The model ``variant``; ``size`` is where it differs from the defaults of `RevColViT`."""
    return build_model_with_cfg(
        RevColViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=NUM_LEVELS, feature_cls="getter"),
        **(size | kwargs),
    )


@register_model
def revcol_vit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """RevCol-ViT-S, Table 9."""
    size = dict(embed_dim=224, num_heads=4, depths=2)
    return _create("revcol_vit_small_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """RevCol-ViT-B, Table 9. The paper trains it with ``drop_path_rate=0.2``."""
    return _create("revcol_vit_base_patch16_224", pretrained, dict(depths=3), **kwargs)


@register_model
def revcol_vit_base_col1_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 1 column."""
    size = dict(num_columns=1, depths=8)
    return _create("revcol_vit_base_col1_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_col2_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 2 columns."""
    size = dict(num_columns=2, depths=4)
    return _create("revcol_vit_base_col2_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_col4_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 4 columns."""
    return _create("revcol_vit_base_col4_patch16_224", pretrained, dict(depths=2), **kwargs)


@register_model
def revcol_vit_base_col8_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 8 columns."""
    return _create("revcol_vit_base_col8_patch16_224", pretrained, dict(num_columns=8), **kwargs)


# For 32-pixel images, in patches of 4.
_PATCH4_32 = dict(img_size=32, patch_size=4)


@register_model
def revcol_vit_tiny_patch4_32(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """4 columns of width 160: 5.6M parameters."""
    size = dict(_PATCH4_32, embed_dim=160, num_heads=5)
    return _create("revcol_vit_tiny_patch4_32", pretrained, size, **kwargs)


@register_model
def revcol_vit_pico_patch4_32(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """2 columns of width 104: 1.2M parameters."""
    size = dict(_PATCH4_32, embed_dim=104, num_heads=4, num_columns=2)
    return _create("revcol_vit_pico_patch4_32", pretrained, size, **kwargs)


@register_model
def test_revcol_vit(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """For tests: 3 columns of width 32 on 64-pixel images."""
    size = dict(img_size=64, embed_dim=32, num_heads=2, num_columns=3)
    return _create("test_revcol_vit", pretrained, size, **kwargs)
