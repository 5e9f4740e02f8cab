"""An encoder's layers, measured before features are made: shapes, widths, and what would make features meaningless."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EncoderError
from ..seeding import torch_generator
from .batchnorm import norm_layers
from .isolated import isolated
from .taps import OUTPUT, Encoder, first_tensor, hooked, tapped, tensor_parts

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


def run(encoder: Encoder, x_NCHW: Tensor) -> None:
    """Run the encoder's module on preprocessed images.

    Raises
    ------
    EncoderError
        It cannot run them.
    """
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            encoder.module(x_NCHW)
    except EncoderError:
        raise
    except Exception as error:  # whatever another library's module raises for what it does not take
        channels, height, width = x_NCHW.shape[1:]
        raise EncoderError(
            f"The encoder {encoder.name!r} cannot run images of {height}x{width}x{channels}",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy=_remedy(encoder, x_NCHW),
        ) from error


def _remedy(encoder: Encoder, x_NCHW: Tensor) -> str:
    """Say what would help: another size or number of channels if the module runs with it, else nothing of ours."""
    for size in (224, 96, 32, 28):
        for channels in (x_NCHW.shape[1], 3, 1):
            try:
                with torch.no_grad():
                    encoder.module(torch.zeros(1, channels, size, size))
            except Exception:  # as above: it does not take this either
                continue
            if channels != x_NCHW.shape[1]:
                return f"give images of {channels} channels, which it takes"
            return f"give a size that it takes with --image-size; {size} is one"
    return "run the module in Python on such images: it fails there too, and not because of their size"


def find_layouts(encoder: Encoder, layers: Sequence[str], images_NHWC: Tensor, *, strict: bool = True) -> None:
    """Note in ``encoder.pooling.layouts`` which axes of the layers' maps are the image's.

    The shape tells where exactly one pair of axes is in the image's proportion: (96, 8, 8) for a square. Where it does
    not, as for (8, 8, 8), the module is run on an image twice as high: the axis that grows is the height.

    Parameters
    ----------
    encoder : Encoder
        Ready to run.
    layers : sequence of str
        Names as :meth:`~dcgan_eval.features.taps.Encoder.choose` returns them.
    images_NHWC : Tensor
        One image, uint8.
    strict : bool
        Raise for a layer where neither tells.

    Raises
    ------
    EncoderError
        The axes cannot be told from each other.
    """
    known = encoder.pooling.layouts
    if encoder.pooling.layout != "auto" or encoder.pooling.name == "max4" or all(name in known for name in layers):
        return
    x_NCHW = encoder.preprocess(images_NHWC)
    shapes = _shapes(encoder, layers, x_NCHW)
    maps = {name: shape for name, shape in shapes.items() if len(shape) == 4}
    known.update({name: found for name, shape in maps.items() if (found := _by_proportion(shape, x_NCHW.shape))})
    unclear = [name for name in maps if name not in known]
    if not unclear:
        return
    try:
        higher = _shapes(encoder, unclear, torch.cat([x_NCHW, x_NCHW], 2))
    except EncoderError:  # a module of one size
        higher = {}
    known.update({name: found for name in unclear if (found := _by_growth(maps[name], higher.get(name)))})
    unclear = [name for name in unclear if name not in known]
    if unclear and strict:
        raise EncoderError(
            f"Which axes of the output of layer {unclear[0]!r} are the image's cannot be told",
            got=f"shape {tuple(maps[unclear[0]])} for an input of shape {tuple(x_NCHW.shape)}",
            remedy="say it with --layout nchw (channels before the map) or --layout nhwc (behind it)",
        )


def _shapes(encoder: Encoder, layers: Sequence[str], x_NCHW: Tensor) -> dict[str, torch.Size]:
    """Return the shapes of the layers' outputs."""
    with tapped(encoder.module, layers, lambda h, _layer: h.shape) as shapes:
        run(encoder, x_NCHW)
    return dict(shapes)


_AXES = {"nchw": (2, 3), "nhwc": (1, 2)}  # of height and width


def _by_proportion(shape: torch.Size, image: torch.Size) -> str | None:
    """Return the only layout in which a map has the image's proportion or is one position."""
    fits = [
        layout
        for layout, (i, j) in _AXES.items()
        if shape[i] * image[3] == shape[j] * image[2] or shape[i] == shape[j] == 1
    ]
    return fits[0] if len(fits) == 1 or shape[1:].numel() == 1 else None


def _by_growth(shape: torch.Size, higher: torch.Size | None) -> str | None:
    """Return the layout whose height, alone of the axes, grew with the image's."""
    if higher is None or len(higher) != 4:
        return None
    grown = [axis for axis in (1, 2, 3) if higher[axis] != shape[axis]]
    return {2: "nchw", 1: "nhwc"}.get(grown[0]) if len(grown) == 1 else None


def pooled(encoder: Encoder, layers: Sequence[str], images_NHWC: Tensor) -> dict[str, Tensor]:
    """Return the pooled features of every layer for uint8 images, from an encoder that is :func:`ready_to_run`."""
    find_layouts(encoder, layers, images_NHWC[:1])
    with tapped(encoder.module, layers, encoder.pooling) as outputs:
        run(encoder, encoder.preprocess(images_NHWC))
    for name in layers:
        if name not in outputs:
            raise EncoderError(
                f"Layer {name!r} of {encoder.name!r} does not run when the module is called",
                remedy="choose another layer with --layer; --list-layers shows those that run. Of a scripted module "
                "only the output can be seen",
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
    modules = dict(encoder.module.named_modules())
    outputs: dict[str, Tensor] = {}
    hooks = [hooked(m, _keeper(name or OUTPUT, outputs)) for name, m in modules.items()]
    images_NHWC = _noise(image_shape)[:1]
    try:
        run(encoder, encoder.preprocess(images_NHWC))
    finally:
        for hook in hooks:
            hook.remove()
    find_layouts(encoder, list(outputs), images_NHWC, strict=False)
    order = [*(name for name in modules if name), OUTPUT]
    named = [(name, layer) for name in order for layer in outputs if layer == name or layer.rpartition(".")[0] == name]
    kinds = {name or OUTPUT: type(m).__name__ for name, m in modules.items()}
    layers = dict.fromkeys(layer for _, layer in named)
    return [_info(encoder, layer, kinds.get(layer, "part"), outputs[layer]) for layer in layers]


def _keeper(name: str, outputs: dict[str, Tensor]) -> Callable[..., None]:
    """Return the hook that keeps a layer's output, or the first tensor in it and each of its parts."""

    def keep(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        first = first_tensor(output)
        found = {} if first is None else {name: first}
        outputs.update(found | {f"{name}.{key}": part for key, part in tensor_parts(output).items()})

    return keep


def _info(encoder: Encoder, name: str, kind: str, output: Tensor) -> LayerInfo:
    """Describe one layer."""
    try:
        width = int(encoder.pooling(output, name).shape[1])
    except Exception:  # an output that pooling refuses, or that is no batch of anything
        width = None
    return LayerInfo(name, kind, tuple(output.shape[1:]), width)
