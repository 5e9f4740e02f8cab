"""Encoders: any module, the layers to tap, and how images become its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EncoderError, unknown_name
from ..models.dcgan import Discriminator, LadderDiscriminator
from .identity import code_hash, is_plain_discriminator, weights_hash
from .isolated import COMPILED, unwrapped
from .pooling import Pooling
from .preprocess import ByImage, Preprocess

GREY_REPEATED = ", grey repeated to 3 channels"
OUTPUT = "output"  # name under which what the module itself returns is tapped


class Encoder:
    """A module whose named layers are the representation.

    Parameters
    ----------
    module : nn.Module
        Takes preprocessed images (N, C, H, W).
    layers : sequence of str
        Names of the submodules that stand for "all", joined in the module's own order; ``"*"`` stands for any part of
        a name between dots, ``"output"`` for what the module returns.
    image_shape : tuple of int or None
        (H, W, C) of the images that it takes; None takes any that it can run.
    name : str or None
        For tables and records; None is the module's class.
    normalise : str
        ``"paper"``, ``"imagenet"`` or ``"MEAN/STD"``, see :class:`~dcgan_eval.features.preprocess.Preprocess`.
    image_size : int or None
        Resize images to this side; None keeps them.
    pooling : str or None
        ``"max4"``, ``"avg4"``, ``"avg1"``, ``"gem"``, ``"cls"``, ``"cls+avg1"`` or ``"none"``; None is ``"max4"``, the
        paper's.
    layout : str or None
        Axes of the layers' maps: ``"nchw"``, ``"nhwc"``, or ``"auto"``, which is None: found for each layer by running.
    prefix_tokens : int or None
        Tokens before the image's in a vision transformer; None asks the module (``num_prefix_tokens``), else the shape.
    preprocess : callable or None
        Maps uint8 (N, H, W, C) to the module's float input, instead of ``normalise`` and ``image_size``.
    preprocessing : str or None
        What ``preprocess`` does, in words; part of a feature store's identity.
    notes : sequence of str
        What a reader of its numbers should know, a line each: random weights, another size than they were made for.

    Attributes
    ----------
    objective : str or None
        What the weights were trained for, where their card says it: ``"adversarial"``, ``"contrastive"``, ...

    Raises
    ------
    EncoderError
        No module, a layer that it does not have, or a rule that cannot be read.
    """

    objective: str | None = None

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str] = (),
        *,
        image_shape: tuple[int, int, int] | None = None,
        name: str | None = None,
        normalise: str = "paper",
        image_size: int | None = None,
        pooling: str | None = None,
        layout: str | None = None,
        prefix_tokens: int | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        preprocessing: str | None = None,
        notes: Sequence[str] = (),
    ):
        if not isinstance(module, nn.Module):
            raise EncoderError("The encoder is no module", got=type(module).__name__, expected="a torch.nn.Module")
        if preprocess is not None and preprocessing is None:
            raise EncoderError("A preprocess of your own must be described", remedy="give preprocessing='in words'")
        self.channels = _input_channels(module, image_shape)
        rule = Preprocess(normalise, image_size, self.channels)
        self.notes = list(notes)
        self.module, self.name = module, name or type(module).__name__
        self.image_shape = image_shape if image_size is None else None
        self.preprocess, self.preprocessing = preprocess or rule, preprocessing or rule.words
        self.pooling = _pooling(pooling, module, prefix_tokens, layout or "auto")
        self.rules = {"normalise": normalise, "image_size": image_size, "pooling": pooling, "layout": layout}
        self.layers = () if not layers else self._matching(layers)

    @property
    def is_discriminator(self) -> bool:
        """Whether this is the paper's network, for which its protocol's choices are the defaults."""
        return isinstance(self.module, Discriminator)

    def takes(self, image_shape: tuple[int, int, int]) -> bool:
        """Tell whether images of a shape fit; grey ones fit where they are repeated."""
        if self.image_shape is None:
            return True
        return image_shape[:2] == self.image_shape[:2] and image_shape[2] in (
            (1, 3) if self.channels == 3 else (self.image_shape[2],)
        )

    def preprocessing_of(self, image_shape: tuple[int, int, int]) -> str:
        """Return what happens to images of a shape, in words."""
        repeated = image_shape[2] == 1 and self.channels == 3 and isinstance(self.preprocess, Preprocess | ByImage)
        return self.preprocessing + (GREY_REPEATED if repeated else "")

    @property
    def weights_sha256(self) -> str:
        """Hash of every parameter and buffer: name, shape, type and bytes."""
        return weights_hash(unwrapped(self.module))

    @property
    def architecture(self) -> str:
        """Hash of what the weights do not say: code, attributes, hooks, a ``preprocess`` of one's own.

        The empty string for the toolkit's own discriminators, whose weights and layers say it all.
        """
        module = unwrapped(self.module)
        own = None if isinstance(self.preprocess, Preprocess) else self.preprocess
        return "" if own is None and is_plain_discriminator(module) else code_hash(module, own)

    def choose(self, layers: Iterable[str] | None) -> tuple[str, ...]:
        """Return the layers asked for in the encoder's order; None or ``("all",)`` means those it was made with.

        Raises
        ------
        EncoderError
            A layer that does not exist (the closest names are given), or none asked for where there is no default.
        """
        wanted = [name.strip() for layer in layers or ("all",) for name in layer.split(",")]
        if "all" not in wanted:
            return self._matching(wanted)
        if not self.layers:
            raise EncoderError(
                f"Which layers of {self.name!r} are the representation is not known",
                remedy="name them with --layer; --list-layers shows them",
            )
        return self.layers

    def _matching(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Return the layers that match any of the patterns, in the module's order, each followed by its parts."""
        names = [*layer_names(self.module), OUTPUT]
        chosen = {name: [name] if any(_matches(name, p) for p in patterns) else [] for name in names}
        for pattern in patterns:
            if any(_matches(name, pattern) for name in names):
                continue
            owner = _owner(pattern, names)
            if owner is None:
                raise unknown_name("layer", pattern, [*names, "all"], EncoderError)
            chosen[owner].append(pattern)  # whether the output has such a part is seen when it runs
        return tuple(layer for name in names for layer in dict.fromkeys(chosen[name]))


def _input_channels(module: nn.Module, image_shape: tuple[int, int, int] | None) -> int | None:
    """Return how many channels the images must have: as told, or as the first convolution says."""
    if image_shape is not None:
        return image_shape[2]
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def layer_names(module: nn.Module) -> list[str]:
    """Return the names of all submodules, as they are in the module that ``torch.compile`` and others wrap."""
    names = (f"{name}.".replace(COMPILED, "").rstrip(".") for name, _ in unwrapped(module).named_modules())
    return [name for name in dict.fromkeys(names) if name]


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a dotted name matches a pattern part by part."""
    parts, globs = name.split("."), pattern.split(".")
    return len(parts) == len(globs) and all(map(fnmatchcase, parts, globs))


def _owner(layer: str, names: Sequence[str]) -> str | None:
    """Return the layer whose output has a part of the name: the longest one in front of it."""
    return max((name for name in names if layer.startswith(f"{name}.")), key=len, default=None)


def _pooling(name: str | None, module: nn.Module, prefix_tokens: int | None, layout: str) -> Pooling:
    """Return the rule for a name as asked for: the paper's windows for its D, adaptive ones for everything else."""
    name = name or "max4"
    if name == "avg4" or (name == "max4" and not isinstance(module, LadderDiscriminator)):
        name += "-adaptive"
    told = getattr(module, "num_prefix_tokens", None)
    return Pooling(name, told if prefix_tokens is None and isinstance(told, int) else prefix_tokens, layout)


def _as_it_is(h: Tensor, layer: str) -> Tensor:
    """Keep an output whole."""
    return h


@contextmanager
def tapped(
    module: nn.Module, layers: Sequence[str], keep: Callable[[Tensor, str], Any] = _as_it_is
) -> Iterator[dict[str, Any]]:
    """Collect the outputs of named layers in a dictionary during each forward pass.

    Parameters
    ----------
    module : nn.Module
        The encoder's module.
    layers : sequence of str
        Names of submodules, or ``"output"``, each with the name or number of a part where the output has several:
        ``"output.1"``, ``"encoder.last_hidden_state"``. Without, it is the first tensor. A layer that runs several
        times gives its last output.
    keep : callable
        What to keep of an output of a layer, called at once, before a later module can change it in place.

    Raises
    ------
    EncoderError
        During the forward pass: a layer that returns no tensor, or has no such part.
    """
    outputs: dict[str, Any] = {}
    names = [*layer_names(module), OUTPUT]

    def hook(layer: str, parts: list[str]) -> Callable[[nn.Module, object, object], None]:
        def take(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs[layer] = keep(_tensor(layer, output, parts, names), layer)

        return take

    hooks, modules = [], dict(module.named_modules())
    for layer in layers:
        owner = layer if layer in names else _owner(layer, names) or layer
        parts = [part for part in layer.removeprefix(owner).split(".") if part]
        tap = modules["" if owner == OUTPUT else owner]
        hooks.append(hooked(tap, hook(layer, parts)))
    try:
        yield outputs
    finally:
        for handle in hooks:
            handle.remove()


def hooked(module: nn.Module, hook: Callable[..., None]) -> Any:
    """Register a forward hook and return its handle; scripted modules take hooks of all modules alone."""
    if not isinstance(module, torch.jit.ScriptModule):
        return module.register_forward_hook(hook)

    def for_this(called: nn.Module, inputs: object, output: object) -> None:
        if called is module:
            hook(called, inputs, output)

    return nn.modules.module.register_module_forward_hook(for_this)


def _tensor(layer: str, output: object, parts: Sequence[str], names: Sequence[str]) -> Tensor:
    """Return the named part of a layer's output, or its first tensor."""
    owner = layer
    for part in reversed(parts):
        owner = owner.removesuffix(f".{part}")
    for part in parts:
        inside = _inside(output)
        if part not in inside:
            known = [*names, *(f"{owner}.{key}" for key in inside)]
            raise unknown_name(f"layer, or part of what {owner!r} returns,", layer, known, EncoderError)
        output, owner = inside[part], f"{owner}.{part}"
    tensor = first_tensor(output)
    if tensor is None:
        raise EncoderError(
            f"Layer {layer!r} returns no tensor",
            got=type(output).__name__,
            remedy="choose another layer with --layer; --list-layers shows those that do",
        )
    return tensor


def first_tensor(output: object) -> Tensor | None:
    """Return an output that is a tensor, or the first one in it."""
    if isinstance(output, Tensor):
        return output
    return next((found for part in _inside(output).values() if (found := first_tensor(part)) is not None), None)


def tensor_parts(output: object) -> dict[str, Tensor]:
    """Return the tensors of an output with several parts by name; none of a tensor."""
    return {key: part for key, part in _inside(output).items() if isinstance(part, Tensor)}


def _inside(output: object) -> dict[str, object]:
    """Return what an output consists of by name or number; nothing of a tensor."""
    if isinstance(output, Mapping):
        return {str(key): part for key, part in output.items()}
    if isinstance(output, list | tuple):
        named = zip(getattr(output, "_fields", ()), output, strict=False)
        return {**{str(i): part for i, part in enumerate(output)}, **dict(named)}
    if is_dataclass(output):
        return {f.name: getattr(output, f.name) for f in fields(output)}
    return {}
