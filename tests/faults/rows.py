"""Rows of the campaign's table: what is done to the commands, and the verdict on each try."""

from __future__ import annotations

import errno
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from children import Action, Child, Fault, Outcome, now_s, run
from flips import FLIPS, Flip
from scenarios import SCENARIOS, Scenario, copy_of, leftovers, make_inputs
from stale import CHANGES, features_after
from table import FAULTS

_NOTES = 8
_PATIENCE_S = 1.0  # how long a second process may wait for one that stands still, before that goes on
_KILLS = (Action.KILL_BEFORE, Action.KILL_AFTER, Action.TEAR)


@dataclass
class Tally:
    """Verdicts of the tries of a row, how many processes were killed, and what was seen where something was wrong."""

    verdicts: Counter[str] = field(default_factory=Counter)
    killed: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, verdict: str, note: str = "") -> None:
        """Count a try."""
        self.verdicts[verdict] += 1
        if (verdict in FAULTS or verdict == "left over") and sum(n.startswith(verdict) for n in self.notes) < _NOTES:
            self.notes.append(f"{verdict}: {note}")


@dataclass(frozen=True)
class Reference:
    """What a scenario comes to when nothing goes wrong.

    Attributes
    ----------
    results : dict
        Name -> digest of each file, journals included.
    earlier : dict
        The same before the command runs.
    time_s : float
        How long it takes.
    trace : list of str
        Each call that changes files: ``"rename /p.h5"``.
    """

    results: dict[str, str]
    earlier: dict[str, str]
    time_s: float
    trace: list[str]


class Bench:
    """The place where the campaign runs: inputs, references, and one folder that everything happens in.

    Parameters
    ----------
    scratch : Path
        An empty folder.
    """

    def __init__(self, scratch: Path):
        self.scratch, self.inputs, self.folder = scratch, scratch / "inputs", scratch / "folder"
        self.inputs.mkdir()
        make_inputs(self.inputs)
        self._references: dict[str, Reference] = {}

    def answer(self, row: str, target: str, tries: int, seed: int) -> dict[str, Any]:
        """Run a number of tries of a row; return the tally."""
        tally, draw = Tally(), random.Random(f"{row}/{target}/{seed}")
        rows: dict[str, Callable[[str, int, random.Random, Tally], None]] = {
            "kills": self._kills,
            "errors": self._errors,
            "interrupts": self._interrupts,
            "flips": self._flips,
            "races": self._races,
            "stale": self._stale,
        }
        rows[row](target, tries, draw, tally)
        found = {"tries": sum(tally.verdicts.values()), "killed": tally.killed}
        return found | {"verdicts": dict(tally.verdicts), "notes": tally.notes}

    def reference(self, scenario: Scenario) -> Reference:
        """Run a scenario in peace; what every try must come to."""
        if scenario.name not in self._references:
            self._references[scenario.name] = self._in_peace(scenario)
            assert self._references[scenario.name].results, (scenario.name, "no results", self._look())
        return self._references[scenario.name]

    def _in_peace(self, scenario: Scenario) -> Reference:
        """Run a scenario in peace."""
        self._prepare(scenario)
        earlier, began = scenario.found(self.folder, ended=True), now_s()
        trace = self.scratch / "trace.txt"
        outcome = self.run(scenario, Fault(Action.COUNT, 0, self.folder, trace=trace))
        assert outcome.kind == "ok", outcome.text
        calls = [line.partition(" ")[2] for line in trace.read_text().splitlines()]
        return Reference(scenario.found(self.folder, ended=True), earlier, now_s() - began, calls)

    def _prepare(self, scenario: Scenario) -> None:
        """Lay the folder out as it is before the scenario: empty, or with earlier results."""
        if scenario.before is None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            return
        template = self.scratch / f"before {scenario.name}"
        if not template.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            outcome = run(scenario.before(self.inputs, self.folder), self.scratch / "log.txt")
            assert outcome.kind == "ok", outcome.text
            self.folder.rename(template)
        copy_of(template, self.folder)

    def child(self, scenario: Scenario, fault: Fault | None = None, number: int = 0) -> Child:
        """Start a scenario in the folder."""
        arguments = scenario.arguments(self.inputs, self.folder)
        return Child(arguments, self.scratch / f"log{number}.txt", fault, self.folder)

    def run(self, scenario: Scenario, fault: Fault | None = None) -> Outcome:
        """Run a scenario to its end."""
        return self.child(scenario, fault).end()

    def _look(self) -> str:
        """List the folder, for a note."""
        return ", ".join(sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file()))[:300]

    def _false(self, scenario: Scenario, wanted: Reference) -> list[str]:
        """Return the files that look complete and are not."""
        found = scenario.found(self.folder)
        return [f"{k} {v}" for k, v in found.items() if v not in (wanted.results.get(k), wanted.earlier.get(k))]

    def _recovers(self, scenario: Scenario, wanted: Reference) -> tuple[str, str]:
        """Run the scenario again after a fault; return a verdict and a note."""
        is_whole = scenario.found(self.folder, ended=True) == wanted.results
        if is_whole and not scenario.again:
            return "recovered", ""
        outcome = self.run(scenario)
        if outcome.kind in ("stuck", "traceback"):
            return outcome.kind, f"again: {outcome.text[-400:]}"
        if outcome.kind != "ok":
            return "lost", f"again: {outcome.text[-400:]}"
        found = scenario.found(self.folder, ended=True)
        different = [k for k in found.keys() | wanted.results.keys() if found.get(k) != wanted.results.get(k)]
        if different:
            return "lost", f"again, but different: {different}"
        return ("left over", ", ".join(leftovers(self.folder))) if leftovers(self.folder) else ("recovered", "")

    def _kills(self, target: str, tries: int, draw: random.Random, tally: Tally) -> None:
        """Kill a command at random moments and at its calls, once or several times; then let it finish."""
        scenario = SCENARIOS[target]
        wanted = self.reference(scenario)
        moments = _moments(_KILLS, len(wanted.trace), draw)
        for number in range(tries):
            self._prepare(scenario)
            action, call = next(moments)
            where = f"{action.name} {wanted.trace[call - 1]}"
            if number % 2:
                tally.killed += self.run(scenario, Fault(action, call, self.folder)).kind == "killed"
                false = self._false(scenario, wanted)
            else:
                where = "at random"
                for _ in range(draw.randint(1, 3)):
                    outcome = self.child(scenario).kill_after(draw.uniform(0.02, 1.05) * wanted.time_s)
                    tally.killed += outcome.kind == "killed"
                    false = self._false(scenario, wanted)
                    if false or self._is_done(scenario, wanted):
                        break
            verdict, note = ("falsely complete", str(false)) if false else self._recovers(scenario, wanted)
            tally.add(verdict, f"{where}: {note}")

    def _is_done(self, scenario: Scenario, wanted: Reference) -> bool:
        """Tell whether a scenario that cannot be run twice has done its work."""
        return not scenario.again and scenario.found(self.folder, ended=True) == wanted.results

    def _errors(self, target: str, tries: int, draw: random.Random, tally: Tally) -> None:
        """Let one call of a command fail; then run it again."""
        self._break(SCENARIOS[target], Action.FAIL, tries, draw, tally)

    def _interrupts(self, target: str, tries: int, draw: random.Random, tally: Tally) -> None:
        """Press Ctrl-C at one call of a command; then run it again."""
        self._break(SCENARIOS[target], Action.INTERRUPT, tries, draw, tally)

    def _break(self, scenario: Scenario, action: Action, tries: int, draw: random.Random, tally: Tally) -> None:
        """Break a command off at one of its calls, in a way that it notices; then run it again."""
        wanted = self.reference(scenario)
        moments = _moments((action,), len(wanted.trace), draw)
        for _ in range(tries):
            self._prepare(scenario)
            action, call = next(moments)
            error = draw.choice((errno.EIO, errno.ENOSPC))
            outcome = self.run(scenario, Fault(action, call, self.folder, error))
            where = f"{errno.errorcode[error] if action is Action.FAIL else 'Ctrl-C'} {wanted.trace[call - 1]}"
            if outcome.kind in ("stuck", "traceback"):
                tally.add(outcome.kind, f"{where}: {outcome.text[-600:]}")
                continue
            is_false = outcome.kind == "ok" and scenario.found(self.folder, ended=True) != wanted.results
            false = self._false(scenario, wanted) or (["exit code 0"] if is_false else [])
            verdict, note = ("falsely complete", str(false)) if false else self._recovers(scenario, wanted)
            tally.add(verdict, f"{where}: {note}")

    def _races(self, target: str, tries: int, draw: random.Random, tally: Tally) -> None:
        """Let a command stand still at a call while another runs, or start several at once."""
        if target == "record names":
            return self._same_second(tries, tally)
        scenario = SCENARIOS[target]
        wanted = self.reference(scenario)
        moments = _moments((Action.STOP,), len(wanted.trace), draw)
        for number in range(tries):
            self._prepare(scenario)
            action, call = next(moments)
            where = f"{wanted.trace[call - 1]}"
            outcomes = self._overtaken(scenario, Fault(action, call, self.folder)) if number % 2 else None
            if outcomes is None:
                where = "at once"
                children = [self.child(scenario, number=n) for n in range(draw.randint(2, 4))]
                outcomes = [child.end() for child in children]
            tally.add(*self._judge_race(scenario, wanted, outcomes, where))

    def _overtaken(self, scenario: Scenario, fault: Fault) -> list[Outcome]:
        """Run a command that stands still at a call until another has finished, or waits for it."""
        first = self.child(scenario, fault, 1)
        first.wait_until_stopped()
        second = self.child(scenario, number=2)
        second.wait(_PATIENCE_S)
        first.go_on()
        return [first.end(), second.end()]

    def _judge_race(
        self, scenario: Scenario, wanted: Reference, outcomes: list[Outcome], where: str
    ) -> tuple[str, str]:
        """Say what is wrong after several processes have worked in one folder."""
        kinds = [outcome.kind for outcome in outcomes]
        for kind in ("stuck", "traceback"):
            if kind in kinds:
                return kind, f"{where}: {outcomes[kinds.index(kind)].text[-600:]}"
        if "ok" not in kinds:
            return "lost", f"{where}: none ended well: {[o.text[-200:] for o in outcomes]}"
        false = self._false(scenario, wanted)
        if false:
            return "falsely complete", f"{where}: {kinds} {false}"
        verdict, note = self._recovers(scenario, wanted)
        return verdict, f"{where}: {kinds} {note}"

    def _same_second(self, tries: int, tally: Tally) -> None:
        """Start two runs in one moment that name their records themselves; each must have one."""
        for _ in range(tries):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            arguments = ["baseline", "pixels", self.inputs / "own.npz", "--cache-dir", self.folder / "cache"]
            logs = [self.scratch / f"log{n}.txt" for n in range(2)]
            children = [Child(arguments, log, directory=self.folder) for log in logs]
            outcomes = [child.end() for child in children]
            names = sorted(path.name for path in self.folder.glob("records/*.json"))
            is_right = [outcome.kind for outcome in outcomes] == ["ok", "ok"] and len(names) == 2
            tally.add("recovered" if is_right else "lost", f"{names} {[outcome.text[-400:] for outcome in outcomes]}")

    def _flips(self, target: str, tries: int, draw: random.Random, tally: Tally) -> None:
        """Flip one bit of a file; then use it."""
        flip = FLIPS[target]
        template = self.scratch / f"flips {target}"
        if not template.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            flip.prepare(self.inputs, self.folder)
            self.folder.rename(template)
        copy_of(template, self.folder)
        clean = self._use(flip)
        assert clean[0].kind == "ok", clean
        for _ in range(tries):
            copy_of(template, self.folder)
            path = draw.choice(sorted(p for p in self.folder.glob(flip.pattern) if p.stat().st_size))
            data = bytearray(path.read_bytes())
            at, bit = _place(len(data), draw), draw.randrange(8)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            outcome, result = self._use(flip)
            verdict = _judge_flip(outcome, result == clean[1], flip)
            seen = outcome.text[-400:] if verdict == "traceback" else repr(bytes(data[max(0, at - 16) : at + 8]))
            tally.add(verdict, f"{path.name} byte {at} bit {bit}: {seen}")

    def _use(self, flip: Flip) -> tuple[Outcome, str]:
        """Use a file; return how it went, and what came of it."""
        outcome = Child(flip.use(self.inputs, self.folder), self.scratch / "log.txt", directory=self.folder).end()
        return outcome, flip.result(self.folder, outcome) if outcome.kind == "ok" else ""

    def _stale(self, target: str, tries: int, draw: random.Random, tally: Tally) -> None:
        """Change an encoder under a cache; the features must be those of the changed one."""
        for change in CHANGES[:tries]:
            tally.add(*features_after(change, self.inputs, self.folder))


def _moments(actions: tuple[Action, ...], calls: int, draw: random.Random) -> Iterator[tuple[Action, int]]:
    """Yield every action at every call, in random order, again and again."""
    moments = [(action, call) for action in actions for call in range(1, calls + 1)]
    while True:
        draw.shuffle(moments)
        yield from moments


def _place(size: int, draw: random.Random) -> int:
    """Choose a byte: anywhere, or where the structure of a file stands, in its first 4 kB or last 8."""
    part = draw.random()
    if part < 0.5 or size < 5000:
        return draw.randrange(size)
    return draw.randrange(4096) if part < 0.8 else size - 1 - draw.randrange(min(8192, size))


def _judge_flip(outcome: Outcome, is_same: bool, flip: Flip) -> str:
    """Say how a damaged file was taken."""
    if outcome.kind in ("stuck", "traceback"):
        return outcome.kind
    if outcome.kind == "sentence" or flip.notice.search(outcome.text):
        return "said"
    return "the same" if is_same else "silent"
