"""What ``--user-dir`` loads: the patches of fairseq first, then the criterion and the models."""

from ..fairseq_patches import install
from .config import PRESETS
from .decoder_init import begin_with_decoder

install(PRESETS, begin_with_decoder)

from ..criterions.chunked_cross_entropy import ChunkedLabelSmoothedCrossEntropy  # noqa: E402
from .revcol_transformer import RevColTransformerModel  # noqa: E402

__all__ = ["ChunkedLabelSmoothedCrossEntropy", "RevColTransformerModel"]
