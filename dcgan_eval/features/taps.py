"""Encoders: any module, the layers to tap, and how images become its input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from ..errors import EncoderError, unknown_name
from ..models.dcgan import Discriminator, LadderDiscriminator
from .identity import code_hash, is_plain_discriminator, weights_hash
from .isolated import unwrapped
from .pooling import Pooling
from .preprocess import Preprocess

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
        ``"max4"``, ``"avg4"``, ``"avg1"`` or ``"none"``; None is ``"max4"``, the paper's.
    prefix_tokens : int or None
        Tokens before the image's in a vision transformer; None asks the module (``num_prefix_tokens``), else the shape.
    preprocess : callable or None
        Maps uint8 (N, H, W, C) to the module's float input, instead of ``normalise`` and ``image_size``.
    preprocessing : str or None
        What ``preprocess`` does, in words; part of a feature store's identity.

    Raises
    ------
    EncoderError
        No module, a layer that it does not have, or a rule that cannot be read.
    """

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
        prefix_tokens: int | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        preprocessing: str | None = None,
    ):
        if not isinstance(module, nn.Module):
            raise EncoderError("The encoder is no module", got=type(module).__name__, expected="a torch.nn.Module")
        if preprocess is not None and preprocessing is None:
            raise EncoderError("A preprocess of your own must be described", remedy="give preprocessing='in words'")
        rule = Preprocess(normalise, image_size)
        self.module, self.name = module, name or type(module).__name__
        self.image_shape = image_shape if image_size is None else None
        self.preprocess, self.preprocessing = preprocess or rule, preprocessing or rule.words
        self.pooling = _pooling(pooling, module, prefix_tokens)
        self.rules = {"normalise": normalise, "image_size": image_size, "pooling": pooling}
        self.layers = () if not layers else self._matching(layers)

    @property
    def is_discriminator(self) -> bool:
        """Whether this is the paper's network, for which its protocol's choices are the defaults."""
        return isinstance(self.module, Discriminator)

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
        """Return the layers that match any of the patterns, in the module's order."""
        names = [name for name, _ in self.module.named_modules() if name] + [OUTPUT]
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in names):
                raise unknown_name("layer", pattern, [*names, "all"], EncoderError)
        return tuple(name for name in names if any(_matches(name, pattern) for pattern in patterns))


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a dotted name matches a pattern part by part."""
    parts, globs = name.split("."), pattern.split(".")
    return len(parts) == len(globs) and all(map(fnmatchcase, parts, globs))


def _pooling(name: str | None, module: nn.Module, prefix_tokens: int | None) -> Pooling:
    """Return the rule for a name as asked for: the paper's windows for its D, adaptive ones for everything else."""
    name = name or "max4"
    if name == "avg4" or (name == "max4" and not isinstance(module, LadderDiscriminator)):
        name += "-adaptive"
    told = getattr(module, "num_prefix_tokens", None)
    return Pooling(name, told if prefix_tokens is None and isinstance(told, int) else prefix_tokens)


def _as_it_is(h: Tensor) -> Tensor:
    """Keep an output whole."""
    return h


@contextmanager
def tapped(
    module: nn.Module, layers: Sequence[str], keep: Callable[[Tensor], Tensor] = _as_it_is
) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of named layers in a dictionary during each forward pass.

    Parameters
    ----------
    module : nn.Module
        The encoder's module.
    layers : sequence of str
        Names of submodules, or ``"output"``. One that runs several times gives its last output.
    keep : callable
        What to keep of an output, called at once, before a later module can change it in place.

    Raises
    ------
    EncoderError
        During the forward pass: a layer that returns no tensor.
    """
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        def take(_module: nn.Module, _inputs: object, output: object) -> None:
            outputs[name] = keep(_tensor(name, output))

        return take

    hooks = [module.get_submodule("" if n == OUTPUT else n).register_forward_hook(hook(n)) for n in layers]
    try:
        yield outputs
    finally:
        for handle in hooks:
            handle.remove()


def _tensor(name: str, output: object) -> Tensor:
    """Return a layer's output if it is a tensor."""
    if not isinstance(output, Tensor):
        raise EncoderError(
            f"Layer {name!r} returns no tensor",
            got=type(output).__name__,
            remedy="choose another layer with --layer; --list-layers shows those that do",
        )
    return output
