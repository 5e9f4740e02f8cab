"""An encoder's layers, measured before features are made: shapes, widths, and what would make features meaningless."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EncoderError
from ..seeding import torch_generator
from .batchnorm import norm_layers
from .isolated import isolated
from .taps import OUTPUT, Encoder, tapped

# Float32 sums of a batch of two and of one are blocked differently; an encoder that mixes images differs by far more.
_MIXING_TOLERANCE = 1e-2


@dataclass(frozen=True)
class LayerInfo:
    """A layer as ``--list-layers`` shows it.

    Attributes
    ----------
    name, kind : str
        Name for ``--layer``, and the module's class.
    shape : tuple of int
        Of the output for one image, without the batch.
    width : int or None
        Length of the pooled vector; None where the output cannot be pooled.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    width: int | None


def layer_widths(encoder: Encoder, layers: Sequence[str], image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the pooled width of each layer by running two images together and one alone.

    Parameters
    ----------
    encoder : Encoder
        What to run.
    layers : sequence of str
        Names as :meth:`~dcgan_eval.features.taps.Encoder.choose` returns them.
    image_shape : tuple of int
        (H, W, C) of the images.

    Raises
    ------
    EncoderError
        The images cannot be run, a layer does not run or returns no tensor, or an image's features depend on the batch.
    """
    encoder = ready_to_run(encoder)
    images = _noise(image_shape)
    together, alone = pooled(encoder, layers, images), pooled(encoder, layers, images[:1])
    return {name: _width(name, together[name], alone[name]) for name in layers}


def _noise(image_shape: tuple[int, int, int]) -> Tensor:
    """Return two images, uint8, from a fixed seed."""
    return torch.randint(0, 256, (2, *image_shape), dtype=torch.uint8, generator=torch_generator(0, "probe"))


def ready_to_run(encoder: Encoder) -> Encoder:
    """Return the encoder with a copy of its module that computes in float32 on the CPU.

    A discriminator's batch norms all get statistics: released ones only have those of the target's images.

    Raises
    ------
    EncoderError
        Another module's batch norm has none: it always normalises by the batch at hand.
    """
    encoder = copy.copy(encoder)
    encoder.module = isolated(encoder.module, "cpu", torch.float32)
    for name, norm in norm_layers(encoder.module).items():
        if norm.running_mean is not None:
            continue
        if not encoder.is_discriminator:
            raise EncoderError(
                f"Batch norm {name!r} keeps no statistics, so features would depend on the batch",
                remedy="build the encoder with track_running_stats=True",
            )
        norm.running_mean, norm.running_var = torch.zeros_like(norm.weight), torch.ones_like(norm.weight)
    return encoder


def run(encoder: Encoder, images_NHWC: Tensor) -> None:
    """Run the encoder's module on uint8 images.

    Raises
    ------
    EncoderError
        It cannot run them.
    """
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            encoder.module(encoder.preprocess(images_NHWC))
    except EncoderError:
        raise
    except Exception as error:  # whatever another library's module raises for a size that it does not take
        height, width, channels = images_NHWC.shape[1:]
        raise EncoderError(
            f"The encoder {encoder.name!r} cannot run images of {height}x{width}x{channels}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy="give the size that it was made for with --image-size, and images with its number of channels",
        ) from error


def pooled(encoder: Encoder, layers: Sequence[str], images_NHWC: Tensor) -> dict[str, Tensor]:
    """Return the pooled features of every layer for uint8 images, from an encoder that is :func:`ready_to_run`."""
    with tapped(encoder.module, layers, encoder.pooling) as outputs:
        run(encoder, images_NHWC)
    for name in layers:
        if name not in outputs:
            raise EncoderError(
                f"Layer {name!r} of {encoder.name!r} does not run when the module is called",
                remedy="choose another layer with --layer; --list-layers shows those that run",
            )
    return outputs


def _width(name: str, together: Tensor, alone: Tensor) -> int:
    """Return the width of a layer's features, or say why an image's are not its own."""
    if (len(together), len(alone)) != (2, 1) or together.shape[1:] != alone.shape[1:]:
        raise EncoderError(
            f"The output of layer {name!r} changes with the batch",
            got=f"{tuple(together.shape)} for two images, {tuple(alone.shape)} for one",
            expected="one row for each image, all of one length",
            remedy="choose another layer with --layer",
        )
    difference, size = (together[:1] - alone).float().norm(), alone.float().norm()
    if difference > _MIXING_TOLERANCE * size:
        raise EncoderError(
            f"The features of an image in layer {name!r} change with the images beside it, or from call to call",
            got=f"relative difference {float(difference / size):.1e}",
            remedy="switch off what is random or mixes the images of a batch",
        )
    return int(alone.shape[1])


def list_layers(encoder: Encoder, image_shape: tuple[int, int, int]) -> list[LayerInfo]:
    """Return every layer that returns a tensor, in the order in which they are named.

    Parameters
    ----------
    encoder : Encoder
        What to run, on one image.
    image_shape : tuple of int
        (H, W, C) of the images.

    Raises
    ------
    EncoderError
        The encoder cannot run such images.
    """
    encoder = copy.copy(encoder)
    encoder.module = isolated(encoder.module, "cpu", torch.float32)
    modules = {name or OUTPUT: m for name, m in encoder.module.named_modules()}
    shapes: dict[str, Tensor] = {}
    hooks = [
        m.register_forward_hook(
            lambda _m, _i, output, name=name: shapes.update({name: output}) if isinstance(output, Tensor) else None
        )
        for name, m in modules.items()
    ]
    try:
        run(encoder, _noise(image_shape)[:1])
    finally:
        for hook in hooks:
            hook.remove()
    names = [*(n for n in modules if n != OUTPUT), OUTPUT]
    return [_info(encoder, name, modules[name], shapes[name]) for name in names if name in shapes]


def _info(encoder: Encoder, name: str, module: torch.nn.Module, output: Tensor) -> LayerInfo:
    """Describe one layer."""
    try:
        width = int(encoder.pooling(output).shape[1])
    except Exception:  # an output that pooling refuses, or that is no batch of anything
        width = None
    return LayerInfo(name, type(module).__name__, tuple(output.shape[1:]), width)
