"""How a patch is described, installed and removed.

A patch replaces functions of fairseq. Each replacement is called with fairseq's own function as the
first argument, and with the arguments of the call behind it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

import fairseq
import torch

COMMANDS = "fairseq_cli."


class MissingTargetError(RuntimeError):
    """A patch replaces something that the installed fairseq does not have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Patch:
    """One row of the table of patches.

    Attributes:
        name: ``file.subject``, as ``REVCOL_FAIRSEQ_PATCHES`` takes it.
        replaces: the replacement of each target. A target is ``module:function`` or
            ``module:Class.method``. Where it names a class, the replacement takes the class and
            returns a subclass. None stands for a function that only the caller of ``install`` has.
        without: what goes wrong without the patch, in one sentence.
        effect: what happens with it, in one sentence.
        since: the version of fairseq (or torch) since which it is needed.
        until: when it may be deleted.
        test: ``path::name`` of the test that fails without it.
        is_feature: it implements an option of the model. ``REVCOL_FAIRSEQ_PATCHES`` does not switch
            it off, since the option would then have no effect, and nobody would be told.
    """

    name: str
    replaces: Mapping[str, Callable[..., Any] | None]
    without: str
    effect: str
    since: str
    until: str
    test: str
    is_feature: bool = False

    def install(self) -> None:
        """Put the replacements in place; a second call changes nothing.

        The module of a command (``fairseq_cli.*``) is not imported for that: where it is imported
        later, its functions are replaced when the command runs.

        Raises:
            MissingTargetError: if the installed fairseq does not have a target.
        """
        found = {target: self._find(target) for target in self.replaces}
        for target, replacement in self.replaces.items():
            for owner, attribute in found[target]:
                key = id(owner), attribute
                if key not in _replaced:
                    _replaced[key] = _Replaced(owner, attribute)
                _replaced[key].add(self.name, replacement)
        _installed[self.name] = self
        if self._is_of_command():
            LATE_COMMANDS.install()

    def remove(self) -> None:
        """Take the replacements away; fairseq's own functions are back where no patch is left.

        Where somebody else has replaced a function after this patch, theirs stays.
        """
        _installed.pop(self.name, None)
        for key, replaced in list(_replaced.items()):
            replaced.discard(self.name)
            if not replaced.patches:
                del _replaced[key]

    def _is_of_command(self) -> bool:
        return any(target.startswith(COMMANDS) for target in self.replaces)

    def _find(self, target: str) -> list[tuple[Any, str]]:
        """Find the objects that have the target, and its name there.

        A command has none before it is imported, and one for each name that it was imported under.
        """
        module_name, _, path = target.partition(":")
        *parents, attribute = path.split(".")
        try:
            if module_name.startswith(COMMANDS):
                modules = find_command_modules(module_name)
            else:
                modules = [importlib.import_module(module_name)]
            owners = [functools.reduce(getattr, parents, module) for module in modules]
            for owner in owners:
                getattr(owner, attribute)
        except (ImportError, AttributeError) as error:
            raise MissingTargetError(
                f"the patch {self.name} replaces {target}, which fairseq {fairseq.__version__} "
                "does not have: use the version of fairseq in setup.py, or set "
                "REVCOL_FAIRSEQ_PATCHES to the names of the other patches"
            ) from error
        return [(owner, attribute) for owner in owners]


@dataclass(frozen=True, kw_only=True, eq=False)
class Permission(Patch):
    """A row that lets torch's safe loading read the classes that each function in it lists.

    torch keeps one list for the process. `remove` takes back only what `install` added.
    """

    added: list[Any] = field(default_factory=list)

    def install(self) -> None:
        if self.name in _installed:
            return
        _installed[self.name] = self
        known = torch.serialization.get_safe_globals()
        wanted = [entry for list_classes in self.replaces.values() for entry in list_classes()]
        self.added.extend(entry for entry in wanted if entry not in known)
        torch.serialization.add_safe_globals(wanted)

    def remove(self) -> None:
        kept = [e for e in torch.serialization.get_safe_globals() if e not in self.added]
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(kept)
        self.added.clear()
        _installed.pop(self.name, None)


class _Replaced:
    """One attribute of fairseq, and the patches that apply to it.

    All patches of a function share one wrapper, which looks at the patches when it is called. So
    patches come and go one by one, also for those who have stored the wrapper somewhere.
    """

    def __init__(self, owner: Any, attribute: str):
        self.owner, self.attribute = owner, attribute
        # getattr also finds methods of base classes, and hides that a method is static.
        self.original = self.current = getattr(owner, attribute)
        self.own = vars(owner).get(attribute)
        self.patches: dict[str, Callable[..., Any]] = {}

    def add(self, name: str, replacement: Callable[..., Any]) -> None:
        if name not in self.patches:
            self.patches[name] = replacement
            self._update()

    def discard(self, name: str) -> None:
        if self.patches.pop(name, None) is not None:
            self._update()

    def _update(self) -> None:
        """Make the attribute what the patches say: a wrapper, a subclass, or fairseq's own."""
        if getattr(self.owner, self.attribute) is not self.current:
            return  # somebody else has replaced it
        before = self.current
        if isinstance(self.original, type):
            self.current = self.original
            for replacement in self.patches.values():
                self.current = replacement(self.current)
        elif not self.patches:
            self.current = self.original
        elif self.current is self.original:
            self.current = self._wrap()
        if self.current is before:
            return
        if self.current is not self.original:
            is_static = isinstance(self.own, staticmethod)
            new = staticmethod(self.current) if is_static else self.current
            setattr(self.owner, self.attribute, new)
        elif self.own is not None:
            setattr(self.owner, self.attribute, self.own)
        else:
            delattr(self.owner, self.attribute)
        self._exchange_copies(before, self.current)

    def _wrap(self) -> Callable[..., Any]:
        original, patches = self.original, self.patches

        @functools.wraps(original)
        def patched(*args: Any, **kwargs: Any) -> Any:
            call = original
            for replacement in patches.values():  # the last one is the outermost
                call = functools.partial(replacement, call)
            return call(*args, **kwargs)

        return patched

    def _exchange_copies(self, old: Any, new: Any) -> None:
        """Exchange a function where another module of fairseq has imported it by name."""
        is_defined_here = self.original.__module__ == getattr(self.owner, "__name__", None)
        if not isinstance(self.original, FunctionType) or not is_defined_here:
            return
        for module in _list_fairseq_modules():
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)


def find_command_modules(name: str) -> list[ModuleType]:
    """Find the loaded modules of a fairseq command.

    ``python -m fairseq_cli.train`` loads it as ``__main__``, a console script under its own name.

    Args:
        name: such as ``fairseq_cli.train``.

    Returns:
        the modules, or an empty list where the command was not imported.
    """
    main = sys.modules["__main__"]
    is_main = getattr(getattr(main, "__spec__", None), "name", None) == name
    return [*([main] if is_main else []), *([sys.modules[name]] if name in sys.modules else [])]


def list_installed() -> list[str]:
    """List the names of the patches that are installed."""
    return list(_installed)


def _list_fairseq_modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and (
            name == "__main__" or name.partition(".")[0] in ("fairseq", "fairseq_cli")
        ):
            yield module


def _install_in_late_commands(original: Callable, args: Any) -> None:
    original(args)
    for patch in list(_installed.values()):
        if patch._is_of_command():
            patch.install()


# Each command calls this function of fairseq first, and looks up its own functions later.
LATE_COMMANDS = Patch(
    name="commands.imported_later",
    replaces={"fairseq.utils:import_user_module": _install_in_late_commands},
    without="Functions of a command that is imported after the plugin would not be replaced.",
    effect="They are replaced when the command begins to run.",
    since="ve-fairseq 0.12.3",
    until="no patch has a target in fairseq_cli",
    test="tests/plugin/test_patches_import_orders.py::"
    "test_every_order_gives_the_model_and_the_same_patches",
)

_replaced: dict[tuple[int, str], _Replaced] = {}
_installed: dict[str, Patch] = {}
