"""Networks in training: optimisers, position, and one round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..devices import COMPUTE_TYPES, computing, seeded
from ..errors import TrainingError
from ..models.dcgan import Discriminator, Generator, build, sample_prior
from ..progress import Progress
from ..ranks import ALONE, Team
from ..seeding import derive, torch_generator
from .checkpoint import Parts, is_finite, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .feed import Feed
from .layerwise import NUM_IMAGES, start_from_kmeans
from .parallel import synchronise_batch_norm
from .phases import TURNS, step_discriminator, step_generator
from .start import Start


class Standstill(torch.optim.Optimizer):
    """Leaves its parameters alone. Making any of torch's optimisers imports the compiler, which takes seconds."""

    def __init__(self, parameters: list[nn.Parameter]):  # torch's own is what imports it
        self.param_groups = [{"params": parameters}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


class BaseTrainer:
    """What every run trains: a discriminator with what belongs to it, optimisers, and a position.

    Every random number derives from (seed, round), so a resumed run equals an uninterrupted one: bit for bit on a CPU
    with the same number of threads.

    Parameters
    ----------
    config : TrainingConfig
        What to do.
    images_NHWC : ndarray
        Real images, uint8, (N, H, W, C), of the preset's size.
    device : str
        Where to train.
    labels_N : ndarray or None
        Classes of the images, which a conditional preset needs.
    team : Team
        The processes that share the work; all are given the same images.
    sync_batch_norm : bool
        Normalise over the minibatches of all processes instead of each by its own.
    compiled : bool
        Compile the networks with ``torch.compile``.
    start : Start or None
        Networks to start from, named by ``config.start``.
    moves : bool
        Whether updates change the networks; if not, they are computed up to the gradients, and no optimiser is made.

    Raises
    ------
    TrainingError
        The images or labels do not fit the preset, or the minibatch the processes.
    """

    cycle = 1
    """Rounds after which what a round does is repeated."""

    parts: Parts
    rates: dict[str, float]
    """Share of the learning rate that an optimiser has, where it is not 1."""

    adam: dict[str, torch.optim.Optimizer]

    def __init__(
        self,
        config: TrainingConfig,
        images_NHWC: np.ndarray,
        device: str = "cpu",
        *,
        labels_N: np.ndarray | None = None,
        team: Team = ALONE,
        sync_batch_norm: bool = False,
        compiled: bool = False,
        start: Start | None = None,
        moves: bool = True,
    ):
        named = start.sha256 == config.start if start else config.start in ("", "kmeans")
        assert named, "the configuration names what is started from"
        self.config, self.device, self.team, self.moves = config, torch.device(device), team, moves
        self.preset = config.architecture
        self.feed = Feed(config, images_NHWC, self.device, labels_N)
        team.check_batch(config.batch_size)
        self.D, self.G = build(self.preset, derive(config.seed, "weights"))
        if start:
            self.D, self.G = start.D, start.G or self.G
        for network in (self.D, self.G):
            if sync_batch_norm and team.size > 1:
                synchronise_batch_norm(network)
            network.train().to(self.device).to(memory_format=torch.channels_last)
        if compiled:  # D's trunk rather than its forward pass, for there are losses that look at it alone
            self.D.trunk = torch.compile(self.D.trunk)  # type: ignore[method-assign]
            self.G.compile()
        self.rounds_done, self.rates = 0, dict[str, float]()

    def initialise(self, progress: Progress) -> None:
        """Do what a new run begins with and a resumed one does not repeat."""
        if self.config.start == "kmeans":
            start_from_kmeans(self.D, self.feed.some_images(NUM_IMAGES), self.config.seed, progress, self.compute)
            self.team.follow_leader(self.D.state_dict().values())

    def _adam(self, parameters: list[nn.Parameter], betas: tuple[float, float] | None = None) -> torch.optim.Optimizer:
        """Make an optimiser, with the configuration's betas if no others are given."""
        config = self.config
        if not self.moves:
            return Standstill(parameters)
        betas = betas or (config.beta1, config.beta2)
        return torch.optim.Adam(parameters, config.learning_rate, betas, weight_decay=config.weight_decay, fused=True)

    @property
    def compute(self) -> torch.dtype:
        """Arithmetic of matrix products and convolutions."""
        return COMPUTE_TYPES[self.config.compute]

    @property
    def seen_images(self) -> int:
        """Real images seen so far, in all processes, as the configuration counts them."""
        return self.config.minibatches_per_round * self.config.batch_size * self.rounds_done

    def step(self) -> dict[str, Tensor]:
        """Do one round; return losses, outputs and gradient norms as tensors on the device (no synchronisation)."""
        for name, adam in self.adam.items():
            adam.param_groups[0]["lr"] = self.rates.get(name, 1.0) * self.config.learning_rate_at(self.seen_images)
        with computing(self.compute, self.device):
            losses = self._round()
        self.rounds_done += 1
        return losses

    def _round(self) -> dict[str, Tensor]:
        """Do the updates of a round."""
        raise NotImplementedError

    def networks(self) -> tuple[Discriminator, Generator | None]:
        """Return copies of D and of G, if it is trained, as they are now, on the CPU, that work in a single process."""
        D, G = build(self.preset, seed=0)
        D.load_state_dict(self.D.state_dict())
        if "G" not in self.parts:
            return D, None
        G.load_state_dict(self.G.state_dict())
        return D, G

    def save(self, folder: Path, state: dict[str, Any], part_bytes: int | None = None) -> Path:
        """Write a checkpoint of this moment; see :func:`~dcgan_eval.training.checkpoint.save_checkpoint`.

        Raises
        ------
        TrainingError
            A number is not finite, so that the last good checkpoint stays the newest, or the disk is full.
        """
        if not is_finite(self.parts):
            raise TrainingError(f"Training diverged: weights are not finite after {self.seen_images:,} images")
        config = {"config": self.config.as_dict()}
        return save_checkpoint(folder, self.rounds_done, self.parts, state | config, part_bytes)

    def load(self, path: Path) -> dict[str, Any]:
        """Continue from a checkpoint; return its state."""
        state = load_checkpoint(path, self.parts)
        self.rounds_done = state["rounds_done"]
        return state


class Trainer(BaseTrainer):
    """A pair in training by the paper's adversarial objective; parameters and errors as for :class:`BaseTrainer`."""

    def __init__(self, config: TrainingConfig, images_NHWC: np.ndarray, device: str = "cpu", **options: Any):
        super().__init__(config, images_NHWC, device, **options)
        self.head = self._build_head(self.D.trunk_width) if config.rotation else None
        self.has_dropout = any(isinstance(m, nn.Dropout) for net in (self.D, self.G) for m in net.modules())
        head: dict[str, nn.Module] = {"head": self.head} if self.head else {}
        self.adam = {
            "D": self._adam([p for module in (self.D, *head.values()) for p in module.parameters()]),
            "G": self._adam(list(self.G.parameters())),
        }
        self.parts = {"D": self.D, "G": self.G, **head, **{f"adam_{name}": adam for name, adam in self.adam.items()}}

    def _build_head(self, width: int) -> nn.Linear:
        """Build the head that tells quarter turns."""
        with seeded(derive(self.config.seed, "rotation head")):
            return nn.Linear(width, TURNS).to(self.device)

    def _round(self) -> dict[str, Tensor]:
        """Update D, then G, each on its own minibatch."""
        z_D, z_G = self._latents()
        x_NCHW = self.team.share(self.feed.minibatch(self.rounds_done))
        rotation, team = self.config.rotation, self.team
        with self._seeded_dropout():
            losses = step_discriminator(
                self.D, self.G, self.adam["D"], x_NCHW, z_D, head=self.head, rotation=rotation, team=team
            )
            return losses | step_generator(self.D, self.G, self.adam["G"], z_G, team=team)

    @contextmanager
    def _seeded_dropout(self) -> Iterator[None]:
        """Let this round's dropout derive from (seed, round, process), global random state left as it was."""
        if not self.has_dropout:
            yield
            return
        seed = derive(self.config.seed, "dropout", round=self.rounds_done, process=self.team.rank)
        with seeded(seed, self.device):
            yield

    def _latents(self) -> tuple[Tensor, Tensor]:
        """Draw the latent vectors of both updates; return this process's rows."""
        latent = torch_generator(self.config.seed, "latent", device=self.device, round=self.rounds_done)
        z_D = sample_prior(self.preset, self.config.batch_size, latent)
        z_G = sample_prior(self.preset, self.config.batch_size, latent)
        return self.team.share(z_D), self.team.share(z_G)
