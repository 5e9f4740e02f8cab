"""A pair in training: networks, optimisers, position, and one round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.dcgan import Discriminator, Generator, build, sample_prior
from ..models.presets import get_preset
from ..seeding import derive, torch_generator
from .checkpoint import Parts, is_finite, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .feed import Feed
from .parallel import ALONE, Team, synchronise_batch_norm
from .phases import TURNS, step_discriminator, step_generator
from .start import Start


class Trainer:
    """A pair in training.

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
        Compile both networks with ``torch.compile``.
    start : Start or None
        Networks to start from, named by ``config.start``; None starts from random ones.

    Raises
    ------
    TrainingError
        The images or labels do not fit the preset, or the minibatch the processes.
    """

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
    ):
        assert config.start == (start.sha256 if start else ""), "the configuration names what is started from"
        self.config, self.device, self.team = config, torch.device(device), team
        self.preset = get_preset(config.preset)
        self.feed = Feed(config, images_NHWC, self.device, labels_N)
        team.check_batch(config.batch_size)
        D, G = (start.D, start.G) if start else build(self.preset, derive(config.seed, "weights"))
        self.head = self._build_head(D.trunk_width) if config.rotation else None
        for network in (D, G):
            if sync_batch_norm and team.size > 1:
                synchronise_batch_norm(network)
            network.train().to(self.device).to(memory_format=torch.channels_last)
            if compiled:
                network.compile()
        self.D, self.G = D, G
        self.has_dropout = any(isinstance(m, nn.Dropout) for network in (D, G) for m in network.modules())
        self.parts = self._optimised()
        self.rounds_done = 0

    def _build_head(self, width: int) -> nn.Linear:
        """Build the head that tells quarter turns."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.config.seed, "rotation head"))
            return nn.Linear(width, TURNS).to(self.device)

    def _optimised(self) -> Parts:
        """Make the optimisers; return everything that has state."""
        parts: Parts = {"D": self.D, "G": self.G}
        if self.head:
            parts["head"] = self.head
        config = self.config
        betas = (config.beta1, config.beta2)
        trained = {"D": [*self.D.parameters(), *(self.head.parameters() if self.head else ())]}
        trained["G"] = list(self.G.parameters())
        self.adam = {
            name: torch.optim.Adam(found, config.learning_rate, betas, weight_decay=config.weight_decay, fused=True)
            for name, found in trained.items()
        }
        return parts | {f"adam_{name}": adam for name, adam in self.adam.items()}

    @property
    def seen_images(self) -> int:
        """Real images seen so far, D's and G's minibatches together, in all processes."""
        return 2 * self.config.batch_size * self.rounds_done

    def step(self) -> dict[str, Tensor]:
        """Do one round; return losses, outputs and gradient norms as tensors on the device (no synchronisation)."""
        for adam in self.adam.values():
            adam.param_groups[0]["lr"] = self.config.learning_rate_at(self.seen_images)
        z_D, z_G = self._latents()
        x_NCHW = self.team.share(self.feed.minibatch(self.rounds_done))
        bfloat16 = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.compute == "bfloat16")
        with bfloat16, self._seeded_dropout():
            losses = step_discriminator(
                self.D,
                self.G,
                self.adam["D"],
                x_NCHW,
                z_D,
                head=self.head,
                rotation=self.config.rotation,
                team=self.team,
            )
            losses |= step_generator(self.D, self.G, self.adam["G"], z_G, team=self.team)
        self.rounds_done += 1
        return losses

    @contextmanager
    def _seeded_dropout(self) -> Iterator[None]:
        """Let this round's dropout derive from (seed, round, process), global random state left as it was."""
        if not self.has_dropout:
            yield
            return
        seed = derive(self.config.seed, "dropout", round=self.rounds_done, process=self.team.rank)
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.manual_seed(seed)
            yield

    def _latents(self) -> tuple[Tensor, Tensor]:
        """Draw the latent vectors of both updates; return this process's rows."""
        latent = torch_generator(self.config.seed, "latent", device=self.device, round=self.rounds_done)
        z_D = sample_prior(self.preset, self.config.batch_size, latent)
        z_G = sample_prior(self.preset, self.config.batch_size, latent)
        return self.team.share(z_D), self.team.share(z_G)

    def networks(self) -> tuple[Discriminator, Generator]:
        """Return copies of D and G as they are now, on the CPU, that work in a single process."""
        D, G = build(self.preset, seed=0)
        D.load_state_dict(self.D.state_dict())
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
