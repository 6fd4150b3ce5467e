"""Reversible column networks (RevCol): the columns, and their fairseq plugin.

Importing this package or its column code (``revcol_nlp.revcol``, ``.column``, ``.layers``) does not
import fairseq. ``fairseq-train --user-dir revcol_nlp`` imports ``revcol_nlp.models``, and so can you.
"""
