"""Count the bytes of all live tensors during a training step, on any device."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

# Matrix products, and the positions of the two matrices among their arguments.
PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
}


class LiveBytes(TorchDispatchMode):
    """Context that counts the storage of each tensor until it is freed.

    A storage that tensors share counts once. Tensors from before the context, memory that an
    operator uses internally, and the states of random generators do not count. (torch's own
    ``MemTracker`` and ``FlopCounterMode`` follow modules by hooks, which fail on columns, since
    levels run inside an autograd function.)

    Args:
        part: initial value of the attribute ``part``.
        compute: if False, results of matrix products are left at zero. This counts the bytes of a
            large batch quickly.

    Attributes:
        part: name under which new tensors are counted.
        live: bytes of live tensors, by part.
        peak: ``live`` at the moment when its total was largest.
        flops: floating-point operations of operators that ``torch.utils.flop_counter`` knows.
    """

    def __init__(self, part: str = "all", *, compute: bool = True):
        super().__init__()
        self.part = part
        self.compute = compute
        self.flops = 0
        self.live: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            self._known.setdefault(storage, None)
        if func in PRODUCTS and not self.compute:
            a, b = (args[index] for index in PRODUCTS[func])
            made = a.new_zeros(*a.shape[:-1], b.shape[-1])
        else:
            made = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=made)
        for storage in _storages(made):
            if storage not in self._known:
                self._known[storage] = None
                self._add(self.part, storage.nbytes())
                weakref.finalize(storage, self._add, self.part, -storage.nbytes())
        return made

    def _add(self, part: str, count: int) -> None:
        self.live[part] += count
        if self.live.total() > self.peak.total():
            self.peak = self.live.copy()


def _storages(tree: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
