"""The column core: Eq. 3 of *Reversible Column Networks*, its inverse, and its backward pass.

It imports torch alone, and knows nothing of text, images, fairseq or timm. README.md beside this
file explains the equation, why the inverse is exact, and how to write columns of your own.
"""

from .column import Column
from .isotropic import IsotropicConfig, build_isotropic_columns
from .level import Level
from .stack import RevCol
from .verify import gradient_difference

__all__ = [
    "Column",
    "IsotropicConfig",
    "Level",
    "RevCol",
    "build_isotropic_columns",
    "gradient_difference",
]
