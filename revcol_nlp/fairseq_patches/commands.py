"""Which command of fairseq runs."""

import sys
from types import ModuleType


def loaded_command(name: str) -> ModuleType | None:
    """The module of a fairseq command, under whichever name (``python -m``) it was loaded."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return main if spec is not None and spec.name == name else sys.modules.get(name)
