"""What ``--user-dir`` registers, after setting right what fairseq itself gets wrong."""

from ..fairseq_patches.fixes import apply
from .config import PRESETS
from .decoder_init import begin_with_decoder

apply(PRESETS, begin_with_decoder)

from ..criterions.chunked_cross_entropy import ChunkedLabelSmoothedCrossEntropy  # noqa: E402
from .revcol_transformer import RevColTransformerModel  # noqa: E402

__all__ = ["ChunkedLabelSmoothedCrossEntropy", "RevColTransformerModel"]
