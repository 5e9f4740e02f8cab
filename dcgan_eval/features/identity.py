"""A hash of what a module computes with besides its weights: its code, and every value that its code can reach.

Code is hashed as it was compiled, not as it is written: comments and line numbers do not count, a file edited after it
was imported does not either, and what was defined in a console does. What no walk over Python objects can reach (C++,
files read in a forward pass) is left to :mod:`~dcgan_eval.features.behaviour`.
"""

from __future__ import annotations

import dis
import hashlib
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.dcgan import Discriminator, LadderDiscriminator, networks_of, norm_layers
from .isolated import COMPILED, unwrapped

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
# Of torch; what counts of it is looked at by name.
_BOOKKEEPING = vars(nn.Module()).keys() | {"_compiled_call_impl", "_is_torch_compile"}
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_NAMES_ONLY = sys.stdlib_module_names | {"torch", "numpy"}  # code that is looked at no further than its name


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of every parameter and buffer, kept in checkpoints or not: name, shape, type and bytes."""
    unused = {f"{name}.num_batches_tracked".lstrip(".") for name in norm_layers(module)}  # in evaluation mode
    tensors: dict[str, Any] = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
        **module.state_dict(),
    }
    digest = hashlib.sha256()
    for key, value in sorted({key.replace(COMPILED, ""): value for key, value in tensors.items()}.items()):
        if key not in unused:
            head = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else "state"
            digest.update(f"{key} {head}".encode())
            digest.update(_bytes(value) if isinstance(value, Tensor) else code_hash(value).encode())
    return digest.hexdigest()


def code_hash(*values: object) -> str:
    """Return the SHA-256 of values and all they consist of; of a module's parameters and buffers, nothing."""
    return _Walk()(values).hex()


def is_plain_discriminator(module: nn.Module) -> bool:
    """Tell whether a module is one of the toolkit's discriminators as it was built: its weights say all of the rest."""
    if not isinstance(module, Discriminator):
        return False
    preset: Any = module.preset
    with torch.random.fork_rng(devices=[]):
        if module.linear is None:
            blank: nn.Module = LadderDiscriminator(preset, len(module.layer_names))
        else:
            blank = networks_of(preset)[0](preset)
    return code_hash(module) == code_hash(blank)


def _bytes(x: Tensor) -> bytes:
    """Return a tensor's values as bytes."""
    x = x.detach()
    x = x.dequantize() if x.is_quantized else x
    x = (x if x.layout == torch.strided else x.to_dense()).cpu().resolve_conj().resolve_neg()
    return x.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class _Walk:
    """Hashes objects from the leaves up; each is looked at once, and one inside itself is only marked."""

    def __init__(self) -> None:
        self.hashes: dict[int, bytes | None] = {}
        self.alive: list[object] = []  # an id is only good for as long as its object lives

    def __call__(self, value: object) -> bytes:
        """Return the hash of a value."""
        if type(value) in _PLAIN:
            return hashlib.sha256(f"{type(value).__name__} {value!r}".encode()).digest()
        if id(value) not in self.hashes:
            self.alive.append(value)
            self.hashes[id(value)] = None
            self.hashes[id(value)] = self._hash(value)
        return self.hashes[id(value)] or b"itself"

    def _hash(self, value: object) -> bytes:
        """Hash a value that consists of others."""
        if isinstance(value, Tensor):
            return hashlib.sha256(f"tensor {tuple(value.shape)} {value.dtype}".encode() + _bytes(value)).digest()
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            head = f"array {value.shape} {value.dtype.str}".encode()
            return hashlib.sha256(head + np.ascontiguousarray(value).tobytes()).digest()
        if isinstance(value, set | frozenset):  # their order changes from process to process
            return hashlib.sha256(b"set" + b"".join(sorted(map(self, value)))).digest()
        return hashlib.sha256(b"".join(map(self, _parts(value)))).digest()


def _parts(value: Any) -> Iterable[object]:
    """Return what a value consists of."""
    if type(value) is dict:
        return ["dict", *(part for item in value.items() for part in item)]
    if type(value) in (tuple, list):
        return [type(value).__name__, *value]
    for kind, parts in _KINDS:
        if isinstance(value, kind):
            return [kind.__name__, *parts(value)]
    return _of_object(value)


def _of_module(module: nn.Module) -> Iterator[object]:
    """Yield a module's class, its parts, its forward hooks and every attribute of its own."""
    yield type(module)
    yield [(name, unwrapped(child)) for name, child in module.named_children()]
    for hooks, kwargs in (
        ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
        ("_forward_hooks", "_forward_hooks_with_kwargs"),
    ):
        yield [(hook, key in getattr(module, kwargs, ())) for key, hook in getattr(module, hooks).items()]
    if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
        # Classes are numbered in the order in which a process compiles them.
        yield re.sub(r"\.?___torch_mangle_\d+", "", str(getattr(module, "code", "")))
    else:
        yield {key: value for key, value in sorted(vars(module).items()) if key not in _BOOKKEEPING}


def _of_class(kind: type) -> Iterator[object]:
    """Yield a class's name, its bases, and all that is defined in it now, whether at first or later."""
    yield f"{kind.__module__}.{kind.__qualname__}"
    if _root(kind) in _NAMES_ONLY:
        return
    yield kind.__bases__
    for key, value in sorted(vars(kind).items()):
        if not key.startswith("__") or isinstance(value, FunctionType | staticmethod | classmethod | property):
            yield key
            yield value


def _of_function(function: FunctionType) -> Iterator[object]:
    """Yield a function's code, defaults, attributes, what it closes over and, of a user's own, the globals it uses."""
    if _root(function) in _NAMES_ONLY:
        yield f"{function.__module__}.{function.__qualname__}"
        return
    code = function.__code__
    yield code
    yield [function.__defaults__, function.__kwdefaults__, vars(function)]
    for cell in function.__closure__ or ():
        yield _content(cell)
    if _root(function) == "dcgan_eval" or code.co_filename.startswith(_INSTALLED):
        return
    for name in sorted(_loaded(code, "LOAD_GLOBAL", "LOAD_NAME") & function.__globals__.keys()):
        value = function.__globals__[name]
        yield [name, value]
        if isinstance(value, ModuleType) and _root(value) not in _NAMES_ONLY:
            used = _loaded(code, "LOAD_ATTR", "LOAD_METHOD") & vars(value).keys()
            yield [(key, vars(value)[key]) for key in sorted(used)]


def _of_code(code: CodeType) -> Iterator[object]:
    """Yield what decides what code does: not its place, its docstring or the names of its local variables."""
    yield [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable]
    steps = list(dis.get_instructions(code))
    yield "\n".join(f"{s.opname} {s.argval if s.opcode in dis.hasname else s.arg}" for s in steps if not _loads(s))
    yield [step.argval for step in steps if _loads(step)]


def _loads(step: dis.Instruction) -> bool:
    """Tell whether an instruction loads a constant; where constants are kept does not matter, so docstrings do not."""
    return step.opcode in dis.hasconst


def _of_object(value: Any) -> Iterator[object]:
    """Yield what a pickle of any other object would hold; of one that cannot be pickled its class and attributes."""
    try:
        yield getattr(value, "__wrapped__", None)  # what a cache or another decorator calls
        reduced = value.__reduce_ex__(4)
    except Exception:  # whatever an object raises that is not made for it
        yield [type(value), getattr(value, "__dict__", None)]
        return
    # (callable, arguments[, state[, iterator of items[, iterator of pairs]]]), or a global's name
    yield reduced if isinstance(reduced, str) else [*reduced[:3], *map(list, filter(None, reduced[3:5]))]


def _root(thing: Any) -> str:
    """Return the name of the package that a class, function or module belongs to."""
    name = thing.__name__ if isinstance(thing, ModuleType) else thing.__module__
    return str(name).partition(".")[0]


def _loaded(code: CodeType, *operations: str) -> set[str]:
    """Return the names that code, and code inside it, loads by one of the operations."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in operations}
    return names.union(*(_loaded(inner, *operations) for inner in code.co_consts if isinstance(inner, CodeType)))


def _content(cell: Any) -> object:
    """Return what a closure's cell holds."""
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


_KINDS: tuple[tuple[type, Callable[[Any], Iterable[object]]], ...] = (
    (nn.Module, _of_module),
    (type, _of_class),
    (FunctionType, _of_function),
    (CodeType, _of_code),
    (MethodType, lambda method: (method.__func__, method.__self__)),
    (property, lambda value: (value.fget,)),
    (staticmethod, lambda value: (value.__func__,)),
    (classmethod, lambda value: (value.__func__,)),
    (ModuleType, lambda module: (module.__name__,)),
)
