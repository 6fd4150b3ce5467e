"""Reversible column networks (RevCol): the columns, and their fairseq plugin.

``import revcol_nlp`` imports torch and the columns, nothing else. ``fairseq-train --user-dir
revcol_nlp`` and ``import revcol_nlp.models`` register the models with fairseq and install the
patches of ``fairseq_patches``. The order of imports does not matter.
"""

from .columns import (
    Column,
    IsotropicConfig,
    Level,
    RevCol,
    build_isotropic_columns,
    gradient_difference,
)
from .user_dir import UserDirPath, share_modules

__version__ = "0.1.0"
__all__ = [
    "Column",
    "IsotropicConfig",
    "Level",
    "RevCol",
    "build_isotropic_columns",
    "gradient_difference",
]

__path__ = UserDirPath(__name__, __path__)
if __name__ != "revcol_nlp":
    share_modules(__name__, __path__[0])
