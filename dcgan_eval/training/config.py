"""What a training run is: one frozen, validated, printable configuration, and the recipes for each preset."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import TrainingError
from ..models.presets import Ladder, Preset, get_preset

IMAGENET_EPOCH = 1_281_167  # training images of ILSVRC2012
MNIST_EPOCH = 50_000  # training images of MNIST less the 10,000 that the authors' script holds out

# fmt: off
_RECIPES: dict[str, dict[str, Any]] = {
    # arXiv:1511.06434, section 4 (ImageNet, faces), and the parameters and scripts of the 2016 release (SVHN)
    "imagenet32": {"total_images": 30 * IMAGENET_EPOCH},
    "svhn32":     {"total_images": 200 * 73_257, "batch_size": 64, "learning_rate": 5e-4},
    "dcgan64":    {"total_images": 25 * 350_000, "weight_decay": 1e-5},
    # the 2016 release's script for conditional digits, before its decay
    "mnist28_cond":  {"total_images": 100 * MNIST_EPOCH, "weight_decay": 2.5e-5},
    # that re-implementation's 4,000 iterations with minibatches of 32; that tutorial's 100 epochs
    "mnist28_keras": {"total_images": 4_000 * 2 * 32, "batch_size": 32},
    "mnist28_tanh":  {"total_images": 100 * 60_000},
}
# fmt: on

# docs/log.md has the studies that chose these, and docs/howto/training.md what made imagenet32-plus.
_CONTRASTIVE: dict[str, Any] = {
    "objective": "contrastive",
    "total_images": 5_000_000,
    "warmup_images": 5_120,
    "batch_size": 256,
    "learning_rate": 2e-3,
    "beta1": 0.9,
    "beta2": 0.99,
    "view_min_area": 0.1,
    "view_max_area": 0.25,
    "decoupled": True,
    "start": "kmeans",
}
_VIEW_SHARE = 3 / 8  # side of a view over the image's: a quarter of the area at most, at its native scale or larger

OBJECTIVES = ("adversarial", "contrastive", "contrad")
_OWN_FIELDS = {
    "adversarial": ("rotation",),
    "contrastive": ("view_size", "view_min_area", "view_max_area", "temperature", "decoupled"),
}
_OWN_FIELDS["contrad"] = _OWN_FIELDS["contrastive"]


@dataclass(frozen=True)
class TrainingConfig:
    """Configuration of a run; the defaults are the paper's recipe for ImageNet at 32x32.

    Attributes
    ----------
    preset : str
        Row of the preset table.
    width : int
        Channels of D's first convolution, which all others follow; 0 for the preset's own.
    objective : str
        ``"adversarial"``, the paper's; ``"contrastive"``: D alone learns which two views show the same image; or
        ``"contrad"``: so it does, and a generator learns beside it (:mod:`~dcgan_eval.training.contrad`).
    total_images : int
        Real images to see (30 ImageNet epochs). The adversarial objective counts those of discriminator and of
        generator minibatches, the contrastive one an image once for its two views.
    warmup_images : int
        Length of the linear rise of the learning rate from 0 at the start of the run.
    decay_images : int
        Length of the linear decay of the learning rate to 0 at the end of the run; 0 keeps it constant.
    batch_size : int
        Images per minibatch, over all processes.
    learning_rate, beta1, beta2 : float
        Adam's parameters.
    weight_decay : float
        L2 penalty, added to the gradient.
    flip : bool
        Mirror half of the real images. Not in the paper's recipe.
    shift : int
        Move real images by up to this many pixels, edges reflected. Not in the paper's recipe.
    rotation : float
        Weight of a self-supervised loss: which quarter turn a real image was given, told from D's last convolutional
        layer. 0 leaves it out, as the paper does. Source: Chen et al., arXiv:1811.11212.
    held_out : int
        Images of the data set that are never trained on, for the nearest-neighbour score.
    view_size : int
        Side of the contrastive views, pixels.
    view_min_area, view_max_area : float
        Smallest and largest share of the image that a contrastive view shows.
    temperature, decoupled : float, bool
        Of the contrastive loss; see :func:`~dcgan_eval.training.contrastive.contrastive_loss`.
    start : str
        SHA-256 of the networks to start from, as :func:`~dcgan_eval.training.start.load_start` gives it; ``"kmeans"``
        for a discriminator built by :func:`~dcgan_eval.training.layerwise.start_from_kmeans`; empty for random ones,
        as in the paper.
    seed : int
        Root seed: weights, order of the data, latent vectors, flips and shifts.
    compute : str
        ``"float32"`` or ``"bfloat16"`` (autocast; parameters and Adam stay in float32).

    Source: sections 4 and 4.3 of arXiv:1511.06434 and the 2016 release.
    """

    preset: str = "imagenet32"
    width: int = 0
    objective: str = "adversarial"
    total_images: int = 30 * IMAGENET_EPOCH
    warmup_images: int = 0
    decay_images: int = 0
    batch_size: int = 128
    learning_rate: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    weight_decay: float = 0.0
    flip: bool = False
    shift: int = 0
    rotation: float = 0.0
    view_size: int = 16
    view_min_area: float = 0.2
    view_max_area: float = 1.0
    temperature: float = 0.2
    decoupled: bool = False
    held_out: int = 0
    start: str = ""
    seed: int = 0
    compute: str = "float32"

    def __post_init__(self) -> None:
        preset = self.architecture
        size, contrastive = preset.image_size, self.objective in ("contrastive", "contrad")
        _require(self.objective in OBJECTIVES, "objective", self.objective, " or ".join(OBJECTIVES))
        _require(self.batch_size >= 2, "--batch-size", self.batch_size, "at least 2 (batch norm needs two images)")
        _require(self.total_images >= 2 * self.batch_size, "--images", self.total_images, "at least two minibatches")
        _require(0 <= self.decay_images <= self.total_images, "--decay-images", self.decay_images, "0 to --images")
        _require(self.learning_rate > 0, "--learning-rate", self.learning_rate, "a positive number")
        _require(self.weight_decay >= 0, "--weight-decay", self.weight_decay, "0 or more")
        _require(0 <= self.shift < size // 2, "--shift", self.shift, f"0 to {size // 2 - 1} pixels")
        _require(self.rotation >= 0, "--rotation", self.rotation, "0 or more")
        _require(not (contrastive and self.rotation), "--rotation", self.rotation, "0 with the contrastive objective")
        _require(8 <= self.view_size <= size, "--view-size", self.view_size, f"8 to {size} pixels")
        areas = (self.view_min_area, self.view_max_area)
        _require(0 < areas[0] <= areas[1] <= 1, "--view-area", areas, "two shares from above 0 to 1, ascending")
        _require(self.temperature > 0, "--temperature", self.temperature, "a positive number")
        _require(self.held_out >= 0, "--held-out", self.held_out, "0 or more")
        _require(self.compute in ("float32", "bfloat16"), "--compute", self.compute, "float32 or bfloat16")
        is_ladder = isinstance(preset, Ladder)
        _require(is_ladder or not (contrastive or self.start == "kmeans"), "preset", self.preset, "a ladder of layers")

    @property
    def architecture(self) -> Preset:
        """What the networks are built from: the preset at its width."""
        return get_preset(self.preset, self.width)

    @property
    def minibatches_per_round(self) -> int:
        """Minibatches that a round counts: D's and G's, or D's alone."""
        return 2 if self.objective == "adversarial" else 1

    @property
    def total_rounds(self) -> int:
        """Rounds: of one discriminator and one generator update, or of a contrastive update."""
        return self.total_images // (self.minibatches_per_round * self.batch_size)

    def learning_rate_at(self, seen_images: int) -> float:
        """Return the learning rate after ``seen_images``: linear rise, constant, then linear decay to 0."""
        factor = 1.0
        if self.warmup_images:
            factor = min(factor, (seen_images + self.batch_size) / self.warmup_images)
        if self.decay_images:
            factor = min(factor, max(0, self.total_images - seen_images) / self.decay_images)
        return self.learning_rate * factor

    def departures(self) -> dict[str, Any]:
        """Return the fields that differ from the paper's recipe for the preset; the seed is none."""
        recipe = paper_recipe(self.preset).as_dict()
        return {name: value for name, value in self.in_use().items() if name != "seed" and value != recipe[name]}

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values, for JSON."""
        return asdict(self)

    def in_use(self) -> dict[str, Any]:
        """Return the fields that the objective looks at."""
        others = {name for names in _OWN_FIELDS.values() for name in names} - {*_OWN_FIELDS[self.objective]}
        return {name: value for name, value in self.as_dict().items() if name not in others}


def paper_recipe(preset: str, **departures: Any) -> TrainingConfig:
    """Return the paper's recipe for a preset, with some fields changed.

    Parameters
    ----------
    preset : str
        Row of the preset table.
    **departures
        Fields of :class:`TrainingConfig`; None leaves a field as the recipe has it.

    Raises
    ------
    TrainingError
        A value that cannot be used, with its flag.
    WeightsError
        No such preset.

    Source: arXiv:1511.06434, section 4, and the scripts of 2016. Deviations: epochs are counted in images of the set
    that the authors used; for SVHN that is taken to be its train split, for faces the paper's 350,000 boxes.
    ``mnist28_cond``: the release's 100 epochs of linear decay are left out, and it gives generated digits the labels of
    the real ones; here they are drawn. ``mnist28_keras`` is the recipe of a popular re-implementation, not the paper's:
    Adam, minibatch 32, 4,000 iterations; there D takes one step on real and another on generated images, here one on
    both. ``mnist28_tanh``: the tutorial's SGD is replaced by the paper's Adam.
    """
    get_preset(preset)
    changed = {name: value for name, value in departures.items() if value is not None}
    return TrainingConfig(**{"preset": preset, **_RECIPES.get(preset, {}), **changed})


def contrastive_recipe(preset: str, **departures: Any) -> TrainingConfig:
    """Return the recipe of contrastive learning for a preset, with some fields changed.

    Parameters
    ----------
    preset : str
        Row of the preset table; one whose discriminator is a ladder.
    **departures
        Fields of :class:`TrainingConfig`; None leaves a field as the recipe has it. The learning rate stays constant
        after its rise, so that a run can be extended, unless ``decay_images`` lets it end.

    Raises
    ------
    TrainingError
        A value that cannot be used, with its flag.
    WeightsError
        No such preset.
    """
    values = _CONTRASTIVE | {name: value for name, value in departures.items() if value is not None}
    values.setdefault("view_size", max(8, round(_VIEW_SHARE * get_preset(preset).image_size)))
    return TrainingConfig(preset=preset, **values)


def contrad_recipe(preset: str, **departures: Any) -> TrainingConfig:
    """Return the contrastive recipe with a generator beside it; parameters and errors as there."""
    return contrastive_recipe(preset, objective="contrad", **departures)


RECIPES = {"paper": paper_recipe, "contrastive": contrastive_recipe, "contrad": contrad_recipe}


def _require(holds: bool, flag: str, got: object, expected: str) -> None:
    """Raise when a value cannot be used."""
    if not holds:
        raise TrainingError(f"The value of {flag} cannot be used", got=str(got), expected=expected)
