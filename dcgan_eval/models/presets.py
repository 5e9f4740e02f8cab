"""The DCGAN family as one aligned table: a preset is a row."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import WeightsError, unknown_name

GRID = 4  # every ladder ends on, and every feature map is pooled to, a 4x4 grid


@dataclass(frozen=True)
class Rung:
    """One convolution of the discriminator: output channels and stride."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Ladder:
    """Everything that D and its mirror G are built from.

    Attributes
    ----------
    name : str
        Name of the preset.
    image_size, image_channels : int
        Images are (image_channels, image_size, image_size).
    z_dim : int
        Length of the latent vector.
    prior : str
        ``"uniform"`` on (-1, 1) or ``"gaussian"`` with unit variance.
    kernel : int
        Side of every kernel; the padding is ``kernel // 2``.
    rungs : tuple of Rung
        D's convolutions, from the image upwards.
    source : str
        Where the row comes from.
    """

    name: str
    image_size: int
    image_channels: int
    z_dim: int
    prior: str
    kernel: int
    rungs: tuple[Rung, ...]
    source: str

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of D's convolutional layers, in order: ``conv1``, ``conv2``, ..."""
        return tuple(f"conv{i}" for i in range(1, len(self.rungs) + 1))

    @property
    def feature_width(self) -> int:
        """Length of the concatenated 4x4-pooled feature vector."""
        return sum(r.channels for r in self.rungs) * GRID * GRID

    @property
    def input_channels(self) -> tuple[int, ...]:
        """Input channels of each of D's convolutions."""
        return (self.image_channels, *(r.channels for r in self.rungs[:-1]))


def _rungs(text: str) -> tuple[Rung, ...]:
    """Read ``"128/1 128/2"`` as (channels, stride) pairs."""
    return tuple(Rung(*map(int, rung.split("/"))) for rung in text.split())


_RELEASE = "parameters released by the paper's authors in 2016"

# fmt: off
_TABLE = (
    #      name          size  ch  z    prior       k  D: channels/stride
    Ladder("imagenet32", 32,   3,  256, "uniform",  3, _rungs("128/1 128/2 256/1 256/2 512/1 512/2"), _RELEASE),
    Ladder("svhn32",     32,   3,  100, "gaussian", 5, _rungs("64/2 128/2 256/2"),                    _RELEASE),
    Ladder("dcgan64",    64,   3,  100, "uniform",  5, _rungs("128/2 256/2 512/2 1024/2"),
           "arXiv:1511.06434, figure 1"),
)
# fmt: on

PRESETS = {ladder.name: ladder for ladder in _TABLE}


def get_preset(name: str) -> Ladder:
    """Return the ladder called ``name``.

    Raises
    ------
    WeightsError
        No such preset; the closest names are given.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS, WeightsError)
    return PRESETS[name]
