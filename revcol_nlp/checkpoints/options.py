"""Model options in a checkpoint that change what weights mean, but not their names or shapes.

Two models that differ in such an option load each other's weights without an error and compute
something else with them.
"""

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
    """Return the model's options in a fairseq checkpoint: a Namespace, a mapping, or None."""
    return checkpoint.get("args") or (checkpoint.get("cfg") or {}).get("model")


def option_difference(
    theirs: Any, ours: Any, names: Iterable[str] = OPTIONS
) -> tuple[str, Any, Any] | None:
    """Find the first of the options ``names`` that differs between two models.

    An option that one of the models does not have is skipped.

    Args:
        theirs: the options of a model, as a Namespace or a mapping.
        ours: the options of another model.
        names: the options to compare.

    Returns:
        the option as on the command line, its value in ``theirs`` and its value in ``ours``; or
        None if no option differs.
    """
    for name in names:
        values = [_get_option(options, name) for options in (theirs, ours)]
        if None not in values and values[0] != values[1]:
            return "--" + name.replace("_", "-"), *values
    return None


def _get_option(options: Any, name: str) -> Any:
    value = _read_field(options, name)
    side, _, rest = name.partition("_")
    if value is None and side in ("encoder", "decoder"):  # fairseq-hydra-train nests them
        value = _read_field(_read_field(options, side), rest)
    return value


def _read_field(options: Any, name: str) -> Any:
    return options.get(name) if isinstance(options, Mapping) else getattr(options, name, None)
