"""What decides the meaning of a checkpoint's weights and shows in no name or shape of theirs."""

from collections.abc import Iterable, Mapping
from typing import Any

DECODER_OPTIONS = (
    "activation_fn",
    "cross_self_attention",
    "decoder_attention_heads",
    "decoder_normalize_before",
    "no_scale_embedding",
    "no_token_positional_embeddings",
)
OPTIONS = (*DECODER_OPTIONS, "encoder_attention_heads", "encoder_normalize_before")


def model_options(checkpoint: Mapping[str, Any]) -> Any:
    """The model's options in a fairseq checkpoint: a Namespace, a mapping, or None."""
    return checkpoint.get("args") or (checkpoint.get("cfg") or {}).get("model")


def option_difference(
    theirs: Any, ours: Any, names: Iterable[str] = OPTIONS
) -> tuple[str, Any, Any] | None:
    """The first of the options ``names`` that differs, as on the command line, and both its values.

    An option that one side does not know is passed over.

    Args:
        theirs: a model's options, as a Namespace or a mapping.
        ours: another model's.
    """
    for name in names:
        values = [_get(options, name) for options in (theirs, ours)]
        if None not in values and values[0] != values[1]:
            return "--" + name.replace("_", "-"), *values
    return None


def _get(options: Any, name: str) -> Any:
    value = _read(options, name)
    side, _, rest = name.partition("_")
    if value is None and side in ("encoder", "decoder"):  # as fairseq-hydra-train nests them
        value = _read(_read(options, side), rest)
    return value


def _read(options: Any, name: str) -> Any:
    return options.get(name) if isinstance(options, Mapping) else getattr(options, name, None)
