"""Several processes on one job, as ``torchrun`` starts them: who does what, one outcome for all, an end if one dies."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .errors import DcganEvalError, TeamError, TrainingError

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=1)
"""How long the others wait while the process that leads works alone; that one is gone is seen by :class:`_Watch`."""

BEAT_S, LOST_S = 5.0, 300.0
"""How often a process says that it is there, and after how long without a word it counts as lost."""

_LEFT = 1 << 40  # more beats than any process lives for: it has left in good order
_REMEDY = (
    "look above for what it said, and at the memory of its machine; the same command continues with what is complete"
)


class _Excused(Exception):
    """Takes a process, whose work is done, out of :func:`joined`."""


def launched_size() -> int:
    """Return how many processes ``torchrun`` started for this job; 1 without it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@dataclass(frozen=True)
class Team:
    """This process among those of a job.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    store : torch.distributed.Store or None
        Where they count what is done.
    """

    rank: int = 0
    size: int = 1
    store: Any = field(default=None, repr=False, compare=False)
    _calls: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    @property
    def beside(self) -> int:
        """How many of the processes share this machine's memory."""
        return 1 if self.size == 1 else int(os.environ.get("LOCAL_WORLD_SIZE") or self.size)

    @property
    def group(self) -> dist.ProcessGroup | None:
        """All processes as torch knows them; None for one alone."""
        return None if self.size == 1 else dist.group.WORLD

    def part(self, count: int) -> slice:
        """Return this process's run of ``count`` things in order; runs differ in length by one at most."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def whole(self, part: np.ndarray) -> np.ndarray:
        """Return the parts of all processes, joined in order of rank, in each of them."""
        return part if self.size == 1 else np.concatenate(self._gathered(part))

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's rows of a minibatch, or of what belongs to one."""
        return batch if self.size == 1 else batch.chunk(self.size)[self.rank]

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Average the gradients over the processes, in place, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def follow_leader(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, in place, by those of the process that leads."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def decided(self, decide: Callable[[], T]) -> T:
        """Return what the process that leads decides, or raise in all processes what it raises."""
        if self.size == 1:
            return decide()
        said: list[Any] = [None, None]
        if self.leads:
            try:
                said[0] = decide()
            except DcganEvalError as error:
                said[1] = error
        dist.broadcast_object_list(said, 0)
        self._raise(said[1])
        return said[0]

    def agree(self, value: int, device: torch.device) -> int:
        """Return the largest value that any process has: if one must stop, all do."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def each(
        self, items: Sequence[T], work: Callable[[T], R], on_done: Callable[[int], None] = lambda done: None
    ) -> Iterator[R]:
        """Yield, in every process, what ``work`` returns for each item, in order; each item goes to whoever is free.

        Parameters
        ----------
        items : sequence
            The same in every process.
        work : callable
            Called with an item, in one of the processes; its result is exchanged, so it should be small.
        on_done : callable
            Called after each item with the number that all have begun.

        Raises
        ------
        DcganEvalError
            Whatever ``work`` raised in any process, in all of them; what is being worked on is finished.
        """
        if self.size == 1:
            for done, item in enumerate(items, 1):
                result = work(item)
                on_done(done)
                yield result
            return
        parts = self.together(lambda: self._work_off(items, work, on_done))
        results = {place: result for part in parts for place, result in part.items()}
        yield from (results[place] for place in range(len(items)))

    def _work_off(self, items: Sequence[T], work: Callable[[T], R], on_done: Callable[[int], None]) -> dict[int, R]:
        """Take items as long as there are any; return place -> result."""
        counter, found = f"each {next(self._calls)}", dict[int, R]()
        while (place := self.store.add(counter, 1) - 1) < len(items):
            try:
                found[place] = work(items[place])
            except DcganEvalError:
                self.store.add(counter, len(items))  # no more for the others either
                raise
            on_done(min(self.store.add(counter, 0), len(items)))
        return found

    def together(self, work: Callable[[], R]) -> list[R]:
        """Return what ``work`` returns in every process, in order of rank, or raise in all what it raises in any."""
        if self.size == 1:
            return [work()]
        result: R | None = None
        failed: DcganEvalError | None = None
        try:
            result = work()
        except DcganEvalError as error:
            failed = error
        found = self._gathered((result, failed))
        self._raise(next((error for _, error in found if error is not None), None))
        return [value for value, _ in found]

    def alone(self) -> Team:
        """Go on without the others, who leave :func:`joined`: what is left cannot be shared."""
        if not self.leads:
            raise _Excused
        return ALONE

    def check_batch(self, batch_size: int) -> None:
        """Raise unless a minibatch can be shared equally.

        Raises
        ------
        TrainingError
            The batch size is no multiple of the number of processes, or leaves one image to each.
        """
        if batch_size % self.size or batch_size // self.size < 2:
            raise TrainingError(
                f"A minibatch cannot be shared by {self.size} processes",
                got=f"--batch-size {batch_size}",
                expected=f"a multiple of {self.size}, at least {2 * self.size}",
                remedy="change --batch-size or torchrun's --nproc-per-node",
            )

    def _gathered(self, value: Any) -> list[Any]:
        """Return the values of all processes."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def _raise(self, error: DcganEvalError | None) -> None:
        """Raise in every process what was raised in one; the process that leads says it."""
        if error is not None:
            error.told = not self.leads
            raise error


ALONE = Team()


@contextmanager
def joined(device: torch.device | None = None) -> Iterator[Team]:
    """Join the processes that ``torchrun`` started; alone without ``torchrun``.

    What lies in host memory is exchanged by gloo, what lies on GPUs by NCCL. A process that :meth:`Team.alone` has
    excused leaves quietly.

    Parameters
    ----------
    device : torch.device or None
        Where this process computes with the others, the processor for None.

    Raises
    ------
    TeamError
        Another process has ended in the middle of its work.
    """
    if launched_size() == 1:
        yield ALONE
        return
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
        team = Team(dist.get_rank(), dist.get_world_size(), _meeting_place())
        with _Watch(team), heeding_sigterm(team), suppress(_Excused):
            yield team
    except DcganEvalError as error:
        vars(error).setdefault("told", False)
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            gone = TeamError("Another process of this job has ended before its work was done", remedy=_REMEDY)
            gone.told = False
            raise gone from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def heeding_sigterm(team: Team) -> Iterator[None]:
    """Say why when ``torchrun``, as soon as one process has died, or a scheduler ends this one."""
    if threading.current_thread() is not threading.main_thread():  # only that one hears signals
        yield
        return

    def end(*_: object) -> None:
        if not team.leads:
            os._exit(128 + signal.SIGTERM)
        why = TeamError("This job was told to end: a process of it has died, or its time is over", remedy=_REMEDY)
        print(f"Error: {why}", file=sys.__stderr__, flush=True)
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _meeting_place() -> dist.Store:
    """Return a connection of our own to the store that the processes met at."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
    return dist.PrefixStore(f"dcgan-eval {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


class _Watch:
    """A thread that says that this process is there, and ends it once another is lost.

    A process that dies closes its connections, which ends whoever waits for it; one whose machine is gone does not, and
    nobody may be waiting for it just now. The process that leads looks after all, the others after that one.
    """

    def __init__(self, team: Team):
        self.team, self._over = team, threading.Event()
        self._thread = threading.Thread(target=self._look_after, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if kind is None:
            with suppress(RuntimeError):  # the process that keeps the store may have left before
                self.team.store.add(f"beat {self.team.rank}", _LEFT)

    def _look_after(self) -> None:
        """Beat, and look whether the others do."""
        team, began = self.team, time.monotonic()
        heard = {rank: (0, began) for rank in (range(1, team.size) if team.leads else [0])}
        while not self._over.wait(BEAT_S):
            try:
                team.store.add(f"beat {team.rank}", 1)
                beats = {rank: team.store.add(f"beat {rank}", 0) for rank in heard}
            except RuntimeError:
                return self._end("the one that keeps the store of this job")
            now = time.monotonic()
            for rank, beat in beats.items():
                if beat != heard[rank][0] or beat >= _LEFT:
                    heard[rank] = (beat, now)
                elif now - heard[rank][1] > LOST_S:
                    return self._end(f"number {rank} of {team.size}, silent for {LOST_S:g} seconds")

    def _end(self, who: str) -> None:
        """End this process from within a thread: the main one may wait for ever for what does not come."""
        if not self._over.is_set():
            sentence = TeamError("Another process of this job is lost", got=who, remedy=_REMEDY)
            print(f"Error: {sentence}", file=sys.__stderr__, flush=True)
            os._exit(2)
