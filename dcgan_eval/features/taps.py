"""Encoders: any module, the layers to tap, and how images become its input."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import DcganEvalError, WeightsError, unknown_name
from ..models.dcgan import Discriminator, build, to_unit_range
from ..models.presets import get_preset
from ..models.weights import load_network, resolve


class Encoder:
    """A module whose named layers are the representation.

    Parameters
    ----------
    module : nn.Module
        Takes preprocessed images (N, C, H, W).
    layers : sequence of str
        Names of the submodules to tap, in the order of concatenation.
    image_shape : tuple of int
        (H, W, C) of the images that it takes.
    name : str
        For tables and records.
    preprocess : callable
        Maps uint8 (N, H, W, C) to the module's float input.
    preprocessing : str
        What ``preprocess`` does, in words; part of a feature store's identity.

    Raises
    ------
    DcganEvalError
        A layer that the module does not have.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Sequence[str],
        *,
        image_shape: tuple[int, int, int],
        name: str = "encoder",
        preprocess: Callable[[Tensor], Tensor] = to_unit_range,
        preprocessing: str = "x / 127.5 - 1",
    ):
        names = dict(module.named_modules())
        for layer in layers:
            if layer not in names:
                raise unknown_name("layer", layer, [n for n in names if n], DcganEvalError)
        self.module, self.layers, self.image_shape, self.name = module.eval(), tuple(layers), image_shape, name
        self.preprocess, self.preprocessing = preprocess, preprocessing

    @property
    def weights_sha256(self) -> str:
        """Hash of every parameter and buffer: name, shape, type and bytes."""
        digest = hashlib.sha256()
        for key, value in sorted(self.module.state_dict().items()):
            if key.endswith("num_batches_tracked"):
                continue
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def choose(self, layers: Iterable[str] | None) -> tuple[str, ...]:
        """Return the layers asked for in the encoder's order; None or ``("all",)`` means all.

        Raises
        ------
        DcganEvalError
            A layer that is not tapped; the closest names are given.
        """
        wanted = {name.strip() for layer in layers or ("all",) for name in layer.split(",")}
        if "all" in wanted:
            return self.layers
        for name in wanted:
            if name not in self.layers:
                raise unknown_name("layer", name, [*self.layers, "all"], DcganEvalError)
        return tuple(layer for layer in self.layers if layer in wanted)


@contextmanager
def tapped(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of named layers in a dictionary during each forward pass.

    Parameters
    ----------
    module : nn.Module
        The encoder's module.
    layers : sequence of str
        Names of submodules.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output)

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def load_encoder(weights: str | Path | None = None) -> Encoder:
    """Return the DCGAN discriminator as an encoder.

    Parameters
    ----------
    weights : str, Path or None
        A bundled name, a path to safetensors, None for the bundled default, or ``"untrained"`` /
        ``"untrained:PRESET:SEED"`` for random weights.

    Raises
    ------
    WeightsError
        The weights cannot be found or read.
    """
    if str(weights).split(":")[0] == "untrained":
        return discriminator_encoder(*_untrained(str(weights)))
    path = resolve(weights)
    D = load_network(path)
    assert isinstance(D, Discriminator), "load_network checks the header"
    return discriminator_encoder(D, path.name.removesuffix(".safetensors").removesuffix(".discriminator"))


def discriminator_encoder(D: Discriminator, name: str) -> Encoder:
    """Return a discriminator as an encoder that taps every convolutional layer.

    Raises
    ------
    WeightsError
        A conditional discriminator: its features would contain the labels.
    """
    if D.preset.num_classes:
        raise WeightsError(
            "A conditional discriminator is no unsupervised encoder: it is told the labels",
            got=f"{name}, preset {D.preset.name}",
            remedy="choose weights of another preset with --weights",
        )
    return Encoder(D, D.layer_names, image_shape=D.preset.image_shape, name=name)


def _untrained(text: str) -> tuple[Discriminator, str]:
    """Build the discriminator named by ``untrained[:PRESET[:SEED]]``."""
    _, preset, seed, *_ = [*text.split(":"), "", ""]
    if seed and not seed.isdigit():
        raise DcganEvalError(
            "The seed of untrained weights is no number", got=text, expected="untrained:PRESET:SEED", remedy="--weights"
        )
    row = get_preset(preset or "imagenet32")
    return build(row, int(seed or 0))[0], f"untrained:{row.name}:{int(seed or 0)}"
