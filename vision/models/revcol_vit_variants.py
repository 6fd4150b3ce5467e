"""The sizes of RevCol-ViT, registered with timm."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import checkpoint_filter_fn

from vision.models.revcol_vit import NUM_LEVELS, RevColViT


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
    return build_model_with_cfg(
        RevColViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=NUM_LEVELS, feature_cls="getter"),
        **(size | kwargs),
    )


# Appendix B.1. B's stochastic depth is 0.2 when trained (vision/recipes), as a rate is no size.
_BASE = dict(embed_dim=384, num_heads=6)


@register_model
def revcol_vit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """RevCol-ViT-S, Table 9."""
    size = dict(embed_dim=224, num_heads=4, depths=2)
    return _create("revcol_vit_small_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """RevCol-ViT-B, Table 9."""
    size = dict(_BASE, depths=3)
    return _create("revcol_vit_base_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_col1_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 1 column."""
    size = dict(_BASE, num_columns=1, depths=8)
    return _create("revcol_vit_base_col1_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_col2_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 2 columns."""
    size = dict(_BASE, num_columns=2, depths=4)
    return _create("revcol_vit_base_col2_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_col4_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 4 columns."""
    size = dict(_BASE, num_columns=4, depths=2)
    return _create("revcol_vit_base_col4_patch16_224", pretrained, size, **kwargs)


@register_model
def revcol_vit_base_col8_patch16_224(pretrained: bool = False, **kwargs: Any) -> RevColViT:
    """Figure 6: 32 blocks of B's width in 8 columns."""
    size = dict(_BASE, num_columns=8, depths=1)
    return _create("revcol_vit_base_col8_patch16_224", pretrained, size, **kwargs)


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
