"""Errors about files: one base class, and one class for each kind of fault."""


class RevColFileError(RuntimeError):
    """A file cannot be read, used or written; the message says which one and what to do."""


class DamagedCheckpointError(RevColFileError):
    """A checkpoint file is truncated or was overwritten."""


class UnusableCheckpointError(RevColFileError):
    """A file is complete, but is not a checkpoint, or not one that can be used."""


class DictionaryMismatchError(RevColFileError):
    """A checkpoint was trained with another dictionary than the one in use."""


class UnwritableError(RevColFileError):
    """A file or a folder of a training cannot be written."""


class DamagedDataError(RevColFileError):
    """A file of fairseq-preprocess is truncated, overwritten, or of another dictionary."""
