"""The DCGAN family as one aligned table: a preset is a row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

from ..errors import WeightsError, unknown_name

GRID = 4  # every ladder ends on, and every feature map is pooled to, a 4x4 grid
WIDEST = 1_024  # channels of the first layer that a ladder can be asked for


@dataclass(frozen=True)
class Rung:
    """One convolution of the discriminator: output channels and stride."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Preset(ABC):
    """What is known of every pair of the family, however it is built.

    Attributes
    ----------
    name : str
        Name of the preset.
    image_size, image_channels : int
        Images are (image_channels, image_size, image_size).
    z_dim : int
        Length of the latent vector, without the class.
    prior : str
        ``"uniform"`` on (-1, 1) or ``"gaussian"`` with unit variance.
    num_classes : int
        Classes that both networks are told; 0 tells none.
    source : str
        Where the row comes from.
    """

    name: str
    image_size: int
    image_channels: int
    z_dim: int
    prior: str
    num_classes: int = field(default=0, kw_only=True)
    source: str = field(kw_only=True)

    @property
    @abstractmethod
    def conv_channels(self) -> tuple[int, ...]:
        """Output channels of each of D's convolutions, from the image upwards."""

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of D's convolutional layers, in order: ``conv1``, ``conv2``, ..."""
        return tuple(f"conv{i}" for i in range(1, len(self.conv_channels) + 1))

    @property
    def feature_width(self) -> int:
        """Length of the concatenated 4x4-pooled feature vector."""
        return sum(self.conv_channels) * GRID * GRID

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image, (H, W, C)."""
        return self.image_size, self.image_size, self.image_channels


@dataclass(frozen=True)
class Ladder(Preset):
    """Everything that the paper's D and its mirror G are built from.

    Attributes
    ----------
    kernel : int
        Side of every kernel; the padding is ``kernel // 2``.
    rungs : tuple of Rung
        D's convolutions, from the image upwards.
    """

    kernel: int
    rungs: tuple[Rung, ...]

    @property
    def conv_channels(self) -> tuple[int, ...]:
        """Output channels of each of D's convolutions."""
        return tuple(rung.channels for rung in self.rungs)

    @property
    def input_channels(self) -> tuple[int, ...]:
        """Input channels of each of D's convolutions."""
        return (self.image_channels, *self.conv_channels[:-1])

    @property
    def width(self) -> int:
        """Output channels of D's first convolution, which those of all others are multiples of."""
        return self.rungs[0].channels

    def of_width(self, width: int) -> Ladder:
        """Return the ladder with all of its channels scaled so that D's first convolution has ``width``."""
        return replace(self, rungs=tuple(Rung(rung.channels // self.width * width, rung.stride) for rung in self.rungs))


@dataclass(frozen=True)
class Mnist28(Preset):
    """A pair for 28x28 digits whose geometry is its own; :mod:`~dcgan_eval.models.mnist28` builds it.

    Attributes
    ----------
    channels : tuple of int
        Output channels of D's convolutions.
    """

    channels: tuple[int, ...]

    @property
    def conv_channels(self) -> tuple[int, ...]:
        """Output channels of each of D's convolutions."""
        return self.channels


def _rungs(text: str) -> tuple[Rung, ...]:
    """Read ``"128/1 128/2"`` as (channels, stride) pairs."""
    return tuple(Rung(*map(int, rung.split("/"))) for rung in text.split())


_RELEASE = "parameters released by the paper's authors in 2016"

# fmt: off
_LADDERS = (
    #      name          size  ch  z    prior       k  D: channels/stride
    Ladder("imagenet32", 32,   3,  256, "uniform",  3, _rungs("128/1 128/2 256/1 256/2 512/1 512/2"), source=_RELEASE),
    Ladder("svhn32",     32,   3,  100, "gaussian", 5, _rungs("64/2 128/2 256/2"),                    source=_RELEASE),
    Ladder("dcgan64",    64,   3,  100, "uniform",  5, _rungs("128/2 256/2 512/2 1024/2"),
           source="arXiv:1511.06434, figure 1"),
)
_MNIST28 = (
    #       name             size  ch  z    prior       D: channels
    Mnist28("mnist28_cond",  28,   1,  100, "uniform",  (64, 128), num_classes=10,
            source="arXiv:1511.06434, supplement; script released in 2016"),
    Mnist28("mnist28_keras", 28,   1,  100, "gaussian", (32, 64, 128, 256), source="a popular Keras re-implementation"),
    Mnist28("mnist28_tanh",  28,   1,  100, "uniform",  (64, 128),          source="a popular tutorial"),
)
# fmt: on

LADDERS = {ladder.name: ladder for ladder in _LADDERS}
PRESETS: dict[str, Preset] = {preset.name: preset for preset in (*_LADDERS, *_MNIST28)}


def get_preset(name: str, width: int = 0) -> Preset:
    """Return the preset called ``name``, perhaps wider or narrower.

    Parameters
    ----------
    name : str
        Row of the preset table.
    width : int
        Output channels of D's first convolution, which all others follow; 0 takes the row as it is. Ladders only.

    Raises
    ------
    WeightsError
        No such preset, with the closest names; or one that has no such width.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS, WeightsError)
    if not width:
        return PRESETS[name]
    ladder = get_ladder(name)
    if not 1 <= width <= WIDEST:
        raise WeightsError("The networks cannot have this width", got=str(width), expected=f"1 to {WIDEST} channels")
    return ladder.of_width(width)


def get_ladder(name: str) -> Ladder:
    """Return the preset called ``name`` where only a ladder will do.

    Raises
    ------
    WeightsError
        No such preset, or one that is no ladder.
    """
    preset = get_preset(name)
    if not isinstance(preset, Ladder):
        raise WeightsError(
            "This needs a preset that is a ladder of convolutions",
            got=name,
            expected="one of " + ", ".join(LADDERS),
            remedy="choose another preset",
        )
    return preset
