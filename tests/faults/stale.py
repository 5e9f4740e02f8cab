"""An encoder that changes while its file, class, weights or cache seem the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
from children import Outcome, run

_MODULE = """\
import torch
from torch import nn
from dcgan_eval.features.taps import Encoder

SCALE = 1.0
def helper(x):
    return x
class Base(nn.Module):
    def bend(self, x):
        return x
class Net(Base):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 1)
        self.factor = 1.0
        self.names = {{}}
        self.register_buffer("offset", torch.zeros(1), persistent=False)
        self.hook = None
    def forward(self, x):
        x = self.bend(helper(self.first(x))) * SCALE * self.factor + self.offset
        x = self.hook(x) if self.hook else x
        return self.last(torch.relu(x))
def make():
    net = Net()
    {edit}
    return Encoder(net, ("first", "last"), name="changing")
"""


@dataclass(frozen=True)
class Change:
    """A change of an encoder's source.

    Attributes
    ----------
    name : str
        What changes.
    edit : tuple of str
        What is put into ``make`` before and after.
    replace : tuple of str
        A text of the module, and what it becomes.
    """

    name: str
    edit: tuple[str, str] = ("pass", "pass")
    replace: tuple[str, str] = ("", "")

    def sources(self) -> tuple[str, str]:
        """Return the module before and after."""
        before, after = (_MODULE.format(edit=edit) for edit in self.edit)
        return before, after.replace(*self.replace) if self.replace[0] else after


_CLOSED = "net.hook = (lambda factor: lambda x: x * factor)({})"
_ATTACHED = "net.last.register_forward_hook(lambda module, inputs, out: out * {})"

CHANGES = (
    Change("nothing"),
    Change("a weight", ("pass", "net.last.weight.data[0, 0] += 0.5")),
    Change("a plain attribute", ("pass", "net.factor = 2.0")),
    Change("a buffer that is not saved", ("pass", "net.offset += 1.0")),
    Change("a method of the class", replace=("torch.relu(x))", "torch.sigmoid(x))")),
    Change("a method of its base class", replace=("        return x\nclass Net", "        return x * 2\nclass Net")),
    Change("a helper of its module", replace=("def helper(x):\n    return x", "def helper(x):\n    return x + 1")),
    Change("a constant of its module", replace=("SCALE = 1.0", "SCALE = 3.0")),
    Change("a value closed over", (_CLOSED.format("1.0"), _CLOSED.format("2.0"))),
    Change("a hook", (_ATTACHED.format("1.0"), _ATTACHED.format("2.0"))),
)


def features_after(change: Change, inputs: Path, folder: Path) -> tuple[str, str]:
    """Make features, change the encoder, ask for them again; return a verdict and a note."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "code").mkdir(parents=True)
    module = folder / "code" / "changing.py"
    before, after = change.sources()
    module.write_text(before)
    first = _features(inputs, folder, "cache")
    module.write_text(after)
    second, fresh = _features(inputs, folder, "cache"), _features(inputs, folder, "fresh")
    for outcome in (first, second, fresh):
        if outcome.kind != "ok":
            return outcome.kind if outcome.kind != "sentence" else "said", f"{change.name}: {outcome.text[-400:]}"
    summary = _summary(second)
    if _values(summary) != _values(_summary(fresh)):
        return "silent", f"{change.name}: features of the encoder as it was"
    return "reused" if summary["reused"] else "made anew", change.name


def _features(inputs: Path, folder: Path, cache: str) -> Outcome:
    """Ask for features in a child that imports the module as it is now."""
    import sys

    def work() -> None:
        from dcgan_eval.cli.main import main

        sys.path.insert(0, str(folder / "code"))
        sys.dont_write_bytecode = True
        arguments = ["features", "--data", inputs / "noise96.npz", "--encoder", "changing:make", "--json"]
        main([str(a) for a in (*arguments, "--store-dtype", "float32", "--cache-dir", folder / cache)])

    return run(work, folder / "log.txt")


def _summary(outcome: Outcome) -> dict[str, object]:
    """Return what the command said about the store."""
    return json.loads(next(line for line in outcome.text.splitlines() if line.startswith("{")))


def _values(summary: dict[str, object]) -> bytes:
    """Return the features in a store."""
    with h5py.File(str(summary["path"]), "r") as file:
        return bytes(file["all"][:].tobytes())
