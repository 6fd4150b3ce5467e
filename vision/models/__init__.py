"""RevCol vision models for timm; importing this package registers them."""

from vision.models.revcol_vit import RevColViT

__all__ = ["RevColViT"]
