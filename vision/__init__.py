"""RevCol-ViT for timm: importing this package registers the models with timm.

The columns are those of ``revcol_nlp``; nothing here needs fairseq.
"""

from vision.models import revcol_vit_variants  # noqa: F401 (registers the models)
from vision.models.revcol_vit import RevColViT

__all__ = ["RevColViT"]
