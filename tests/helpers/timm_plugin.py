"""A pytest plugin for timm's own tests: those that take timm's ViT take our models instead.

timm's tests choose models by `timm.list_models`. Where the choice includes ``VIT``, they get all of
our models, and otherwise none. So no test is left out that timm runs on its ViT.
"""

from typing import Any

import timm

import vision  # noqa: F401 (registers the models)

VIT = "vit_small_patch16_224"
list_models = timm.list_models


def list_our_models(filter: Any = "", *args: Any, **kwargs: Any) -> list[str]:
    names = list_models(filter, *args, **kwargs)
    if not any(name.split(".")[0] == VIT for name in names):
        return []
    return list_models("*revcol*", pretrained=kwargs.get("pretrained", False))


timm.list_models = list_our_models
