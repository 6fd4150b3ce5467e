"""Checkpoint files: integrity, contents, fingerprints, options, errors. Needs torch, not fairseq.

Import from the modules: ``from revcol_nlp.checkpoints.integrity import is_complete``.
"""
