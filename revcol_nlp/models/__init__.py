"""What ``--user-dir`` registers, after setting right what fairseq itself gets wrong."""

from ..fairseq_fixes import apply

apply()

from .revcol_transformer import RevColTransformerModel  # noqa: E402

__all__ = ["RevColTransformerModel"]
