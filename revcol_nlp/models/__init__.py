"""What ``--user-dir`` registers, after setting right what fairseq itself gets wrong."""

from ..fairseq_fixes import apply

apply()

from ..criterion import ChunkedLabelSmoothedCrossEntropy  # noqa: E402
from .revcol_transformer import RevColTransformerModel  # noqa: E402

__all__ = ["ChunkedLabelSmoothedCrossEntropy", "RevColTransformerModel"]
