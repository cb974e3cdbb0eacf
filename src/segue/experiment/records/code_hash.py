"""Hash functions and values that the caller passes in, to detect changes.

The hash of a function covers its code, constants and default values, the values of its closure, and the global
variables that it reads. The hash of an object covers its class and its state, as its ``__reduce_ex__`` gives them.
Functions, classes and modules of the standard library and of installed packages are identified by name.
"""

from __future__ import annotations

import copyreg
import dis
import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np

__all__ = ["UnhashableValueError", "hash_value"]

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))


class UnhashableValueError(ValueError):
    """A value whose state cannot be read, such as an open file."""


def hash_value(value: Any, name: str) -> str:
    """Return the SHA-256 of a value.

    Args:
        name: of the value, for the error message.

    Raises:
        UnhashableValueError: the state of the value, or of a value within it, cannot be read.
    """
    hasher = _Hasher()
    try:
        hasher.add(value, name)
    except RecursionError:
        raise UnhashableValueError(f"{name} is nested too deeply to be compared") from None
    return hasher.digest.hexdigest()


class _Hasher:
    """Feeds a value and everything that it refers to into one hash."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._done: set[int] = set()  # functions and classes, which live as long as the value
        self._open: list[int] = []  # objects that contain the current one

    def add(self, value: Any, name: str) -> None:
        """Hash ``value``, which is called ``name`` in error messages."""
        if type(value) in PLAIN:
            self._write(type(value).__name__, repr(value))
        elif id(value) in self._open:
            self._write("cycle", str(self._open.index(id(value))))
        else:
            with self._within(value):
                self._add_object(value, name)

    def _add_object(self, value: Any, name: str) -> None:
        if isinstance(value, np.ndarray) and type(value) is np.ndarray and value.dtype != object:
            self._write("array", f"{value.dtype} {value.shape}")
            self.digest.update(np.ascontiguousarray(value).data)
        elif type(value) in (list, tuple):
            self._add_all(type(value).__name__, value, name)
        elif type(value) in (dict, MappingProxyType):
            self._add_all("dict", [part for pair in value.items() for part in pair], name)
        elif type(value) in (set, frozenset):
            self._write(type(value).__name__, " ".join(sorted(hash_value(one, name) for one in value)))
        elif isinstance(value, CodeType):
            self._add_code(value, name)
        elif isinstance(value, FunctionType | type | ModuleType):
            self._add_named(value, name)
        elif isinstance(value, MethodType):
            self._add_all("method", (value.__func__, value.__self__), name)
        elif isinstance(value, staticmethod | classmethod):
            self._add_all(type(value).__name__, (value.__func__,), name)
        elif isinstance(value, cached_property):
            self._add_all("property", (value.func,), name)
        elif isinstance(value, property):
            self._add_all("property", (value.fget, value.fset, value.fdel), name)
        elif isinstance(value, BuiltinFunctionType) and isinstance(value.__self__, ModuleType | type(None)):
            self._write("builtin", f"{value.__module__}:{value.__qualname__}")
        elif _is_tensor(value):
            self._add_all("tensor", (value.detach().cpu().numpy(), value.requires_grad), name)
        else:
            self._add_state(value, name)

    def _add_all(self, kind: str, values: Iterable[Any], name: str) -> None:
        values = list(values)
        self._write(kind, str(len(values)))
        for one in values:
            self.add(one, name)

    def _add_named(self, value: Any, name: str) -> None:
        """Hash a function, class or module: by name if it is installed, else its content."""
        module = value.__name__ if isinstance(value, ModuleType) else value.__module__
        self._write(type(value).__name__, f"{module}:{getattr(value, '__qualname__', '')}")
        if id(value) in self._done or _is_installed(str(module)):
            return
        self._done.add(id(value))
        if isinstance(value, FunctionType):
            self._add_function(value, name)
        elif isinstance(value, type):
            self._add_all("bases", value.__bases__, name)
            for key, part in sorted(vars(value).items()):
                is_method = isinstance(part, FunctionType | staticmethod | classmethod | property)
                if is_method or not (key.startswith("__") or key == "_abc_impl"):
                    self._write("attribute", key)
                    self.add(part, f"{value.__qualname__}.{key}")
        else:
            source = Path(getattr(value, "__file__", None) or "")
            if not source.is_file():
                raise UnhashableValueError(f"{name} uses the module {module}, whose source file is unknown")
            self.digest.update(source.read_bytes())

    def _add_function(self, function: FunctionType, name: str) -> None:
        code, label = function.__code__, function.__qualname__
        self._add_code(code, label)
        self.add(function.__defaults__, f"a default value of {label}")
        self.add(function.__kwdefaults__, f"a default value of {label}")
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._write("closure", variable)
            try:
                content = cell.cell_contents
            except ValueError:  # the variable is not assigned yet
                continue
            self.add(content, f"the variable '{variable}' of {label}")
        for variable in sorted(_globals_of(code)):
            if variable in function.__globals__:
                self._write("global", variable)
                self.add(function.__globals__[variable], f"the global variable '{variable}' of {label}")

    def _add_code(self, code: CodeType, name: str) -> None:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._write("code", repr((counts, names)))
        self.digest.update(code.co_code)
        self._add_all("constants", code.co_consts, f"a constant of {name}")

    def _add_state(self, value: Any, name: str) -> None:
        """Hash any other object by its class and state."""
        reduce = copyreg.dispatch_table.get(type(value))
        state: Any = None
        with suppress(AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
            state = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(state, str):
            self._write("object", f"{type(value).__module__}:{state}")
            self.add(getattr(value, "__wrapped__", None), name)  # the function within a cache
        elif isinstance(state, tuple):
            parts = [list(part) if isinstance(part, Iterator) else part for part in state]
            self._add_all("object", [type(value), *parts], name)
        else:
            raise UnhashableValueError(f"{name} is a {type(value).__qualname__}, which cannot be compared")

    def _write(self, kind: str, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        self.digest.update(f"{kind} {len(data)} ".encode() + data)

    @contextmanager
    def _within(self, value: Any) -> Iterator[None]:
        self._open.append(id(value))
        try:
            yield
        finally:
            self._open.pop()


def _globals_of(code: CodeType) -> set[str]:
    """Return the names of the global variables that code, or code within it, reads."""
    found = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_globals_of(constant) for constant in code.co_consts if isinstance(constant, CodeType)))


def _is_installed(module: str) -> bool:
    """Return whether a module belongs to Python, to Segue or to an installed package."""
    root = module.partition(".")[0]
    if root == "segue" or root in sys.stdlib_module_names or root in sys.builtin_module_names:
        return True
    path = getattr(sys.modules.get(module), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(Path(path).parts))


def _is_tensor(value: Any) -> bool:
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
