"""RevCol vision models for timm, and commands that train them on images.

``import vision`` registers the models. Nothing here needs fairseq.
"""

from vision.models import RevColViT

__all__ = ["RevColViT"]
