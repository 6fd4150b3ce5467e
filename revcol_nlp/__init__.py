"""Reversible column networks (RevCol): the columns, and their fairseq plugin.

Importing this package or its column code (``revcol_nlp.revcol``, ``.column``, ``.layers``) does not
import fairseq; ``revcol_nlp.models``, which ``fairseq-train --user-dir revcol_nlp`` imports, does.
"""
