"""The parameters that the paper's authors released in 2016: plain arrays beside a pickle that is never opened.

Source: the scripts and parameters of that release: the order of the parameters, flipped kernels, batch norm without
running statistics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import check_regular
from .dcgan import Discriminator, Generator
from .presets import GRID, LADDERS, Ladder, get_ladder
from .weights import blank_network

FILE_NAMES = {"discriminator": "discrim_params.jl", "generator": "gen_params.jl"}
RELEASE_CARD = {
    "source": "parameters released in 2016 by the authors of arXiv:1511.06434",
    "objective": "adversarial",
    "licence": "MIT, copyright (c) 2015 Alec Radford",
    "conversion": "kernels flipped along both spatial axes, matrices transposed, no running batch-norm statistics",
}
_PART = re.compile(r"(?P<container>.+\.jl)_(?P<number>\d+)\.npy$")


@dataclass(frozen=True)
class Part:
    """One released array: what it is, whose tensor it becomes, and its shape as released.

    Attributes
    ----------
    what : str
        In words, for messages.
    layer : str
        The layer it belongs to.
    key : str
        Name of the tensor in our network.
    shape : tuple of int
        Kernels are (out, in, k, k) in D and (in, out, k, k) in G; matrices are (in, out).
    """

    what: str
    layer: str
    key: str
    shape: tuple[int, ...]

    def tensor(self, values: np.ndarray) -> Tensor:
        """Return our tensor: kernels flipped, because they were trained as true convolutions; matrices transposed."""
        if values.ndim == 4:
            values = values[:, :, ::-1, ::-1]
        return torch.from_numpy(np.ascontiguousarray(values.T if values.ndim == 2 else values, dtype=np.float32))


def released_parts(ladder: Ladder, network: str) -> list[Part]:
    """List a network's released arrays in their order.

    Parameters
    ----------
    ladder : Ladder
        Row of the preset table.
    network : str
        ``"discriminator"`` (w1; w, g, b of each further convolution; wy) or ``"generator"`` (w, g, b of the
        projection and of each deconvolution; wx).
    """
    return _discriminator_parts(ladder) if network == "discriminator" else _generator_parts(ladder)


def _discriminator_parts(ladder: Ladder) -> list[Part]:
    """List D's arrays."""
    parts = []
    for i, (name, rung) in enumerate(zip(ladder.layer_names, ladder.rungs, strict=True)):
        shape = (rung.channels, ladder.input_channels[i], ladder.kernel, ladder.kernel)
        parts += _block(name, f"{name}.conv", f"{name}.norm", shape, rung.channels)[: 1 if i == 0 else 3]
    width = ladder.rungs[-1].channels * GRID**2
    return [*parts, Part("weights of the linear unit", "linear", "linear.weight", (width, 1))]


def _generator_parts(ladder: Ladder) -> list[Part]:
    """List G's arrays."""
    width = ladder.rungs[-1].channels * GRID**2
    parts = _block("project", "project", "project_norm", (ladder.z_dim, width), width)
    channels = [*(rung.channels for rung in ladder.rungs[::-1]), ladder.image_channels]
    for i in range(1, len(channels)):
        shape = (channels[i - 1], channels[i], ladder.kernel, ladder.kernel)
        name = f"deconv{i}"
        parts += _block(name, f"{name}.conv", f"{name}.norm", shape, channels[i])
    return parts[:-2]  # no batch norm at the output


def _block(layer: str, weight: str, norm: str, shape: tuple[int, ...], width: int) -> list[Part]:
    """List weights, gain and bias of a layer."""
    return [
        Part(f"weights of {layer}", layer, f"{weight}.weight", shape),
        Part(f"batch-norm gain of {layer}", layer, f"{norm}.weight", (width,)),
        Part(f"batch-norm bias of {layer}", layer, f"{norm}.bias", (width,)),
    ]


def import_release(
    path: Path, network: str = "discriminator", *, preset: str | None = None, allow_partial: bool = False
) -> Discriminator | Generator:
    """Read a released network from its plain arrays; nothing is unpickled.

    Parameters
    ----------
    path : Path
        The ``.jl`` file (it is not read, its arrays lie beside it), or the folder that holds one for the network.
    network : str
        ``"discriminator"`` or ``"generator"``.
    preset : str or None
        What it must be; None infers it from the shapes.
    allow_partial : bool
        Keep the leading layers of an incomplete discriminator.

    Returns
    -------
    Discriminator or Generator
        Without running batch-norm statistics: the release has none.

    Raises
    ------
    WeightsError
        No such arrays, unreadable or not finite ones, shapes of no preset or another, an incomplete model.

    Source: the scripts and parameters of the 2016 release. Deviations: none.
    """
    container = _container(path, network)
    arrays = _read_arrays(container)
    ladder = _ladder(container, arrays, network, preset)
    parts = released_parts(ladder, network)
    num_layers = _num_layers(container, arrays, ladder, parts, network, allow_partial)
    module = blank_network(ladder, network, num_layers, running_statistics=False)
    values = module.state_dict()
    values |= {p.key: p.tensor(arrays[i]) for i, p in enumerate(parts, start=1) if p.key in values}
    module.load_state_dict(values)
    return module


def _container(path: Path, network: str) -> Path:
    """Return the path of the ``.jl`` file that the arrays are named after."""
    if not path.is_dir():
        part = _PART.match(str(path))
        return Path(part["container"]) if part else path
    names = {_PART.match(p.name)["container"] for p in path.glob(f"*{FILE_NAMES[network]}_*.npy")}  # type: ignore[index]
    if len(names) != 1:
        raise WeightsError(
            f"The folder does not hold exactly one released {network}",
            got=f"{path}: {', '.join(sorted(names)) or 'none'}",
            expected=f"arrays named like 200_{FILE_NAMES[network]}_01.npy",
            remedy="give the path of the .jl file itself",
        )
    return path / names.pop()


def _read_arrays(container: Path) -> dict[int, np.ndarray]:
    """Read the arrays by their numbers."""
    matches = [(p, _PART.match(p.name)) for p in container.parent.glob(f"{container.name}_*.npy")]
    arrays = {int(match["number"]): _read_array(p) for p, match in matches if match}
    if not arrays:
        raise WeightsError(
            "There are no arrays of a released network",
            got=str(container),
            expected=f"plain arrays beside it: {container.name}_01.npy, {container.name}_02.npy, ...",
            remedy="give the folder or the .jl file; the .jl file alone holds no weights",
        )
    return arrays


def _read_array(path: Path) -> np.ndarray:
    """Read one array of finite float32."""
    try:
        check_regular(path)
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WeightsError(
            "A released array cannot be read", got=f"{path}: {error}", remedy="copy the file again"
        ) from error
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise WeightsError(
            "A released array does not hold finite numbers", got=f"{path}: {values.dtype}", remedy="copy the file again"
        )
    return values


def _ladder(container: Path, arrays: dict[int, np.ndarray], network: str, preset: str | None) -> Ladder:
    """Return the preset whose shapes the arrays have."""
    candidates = [get_ladder(preset)] if preset else list(LADDERS.values())
    mismatches = {ladder.name: _mismatch(arrays, released_parts(ladder, network)) for ladder in candidates}
    fitting = [ladder for ladder in candidates if mismatches[ladder.name] is None]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " or ".join(ladder.name for ladder in fitting)
        raise WeightsError(f"The arrays of {container.name} fit several presets", got=names, remedy="say --preset")
    raise WeightsError(
        f"The arrays of {container.name} are no {network} of " + (f"preset {preset}" if preset else "any preset"),
        got="; ".join(f"{name}: {mismatch}" for name, mismatch in mismatches.items()),
        remedy="leave --preset out to infer it" if preset else f"check --network, it is {network}, and the files",
    )


def _mismatch(arrays: dict[int, np.ndarray], parts: list[Part]) -> str | None:
    """Say how arrays differ from a list of parts; missing ones do not count."""
    if max(arrays) > len(parts) or min(arrays) < 1:
        return f"numbers up to {max(arrays)} where there are {len(parts)} arrays"
    for number, values in sorted(arrays.items()):
        part = parts[number - 1]
        if values.shape != part.shape:
            return f"array {number} has shape {values.shape}, {part.what} have {part.shape}"
    return None


def _num_layers(
    container: Path, arrays: dict[int, np.ndarray], ladder: Ladder, parts: list[Part], network: str, allow_partial: bool
) -> int | None:
    """Return None for a complete model, the number of leading layers that can be kept, or refuse."""
    missing = [number for number in range(1, len(parts) + 1) if number not in arrays]
    if not missing:
        return None
    broken = {parts[number - 1].layer for number in missing}
    names = list(ladder.layer_names)
    usable = next((i for i, name in enumerate(names) if name in broken), len(names)) if network[0] == "d" else 0
    if allow_partial and usable:
        return usable
    listed = ", ".join(f"{container.name}_{number:02d}.npy ({parts[number - 1].what})" for number in missing)
    kept = f"{', '.join(names[:usable])} can still be used" if usable else "nothing can be used without them"
    raise WeightsError(
        f"The released {network} is incomplete, {kept}",
        got=f"{len(missing)} of {len(parts)} arrays missing: {listed}",
        remedy="add the missing files" + (f", or keep {usable} layers with --allow-partial" if usable else ""),
    )
