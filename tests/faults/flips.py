"""Files of which one bit is flipped: how each is made, and how it is used afterwards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from children import Action, Fault, Outcome, run
from scenarios import SCENARIOS, TINY, TRAIN, digest

Work = Sequence[object] | Callable[[], object]


@dataclass(frozen=True)
class Flip:
    """A kind of file.

    Attributes
    ----------
    prepare : callable
        Makes it: (inputs, folder).
    pattern : str
        Files in the folder of which one is damaged.
    use : callable
        The work that reads it, for (inputs, folder).
    result : callable
        What came of a use that ended well: (folder, outcome) -> text.
    notice : pattern
        What is printed when damage is noticed without ending the command.
    """

    prepare: Callable[[Path, Path], None]
    pattern: str
    use: Callable[[Path, Path], Work]
    result: Callable[[Path, Outcome], str]
    notice: re.Pattern[str] = re.compile(r"damaged|does not (match|fit)|made anew|left out", re.IGNORECASE)


def _do(*arguments: object, folder: Path, fault: Fault | None = None) -> None:
    """Run a command that must succeed, unless a fault is meant to end it."""
    outcome = run(arguments, folder.parent / "log.txt", fault)
    assert outcome.kind == ("killed" if fault else "ok"), outcome.text


def _files(*patterns: str) -> Callable[[Path, Outcome], str]:
    """Take files as what came of a use."""
    return lambda folder, _: str({p.name: digest(p) for pattern in patterns for p in sorted(folder.glob(pattern))})


def _text(folder: Path, outcome: Outcome) -> str:
    """Take what was printed as what came of a use."""
    return outcome.text


def _hash(*parts: object) -> str:
    """Hash arrays, tensors and what prints."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.tobytes() if hasattr(part, "tobytes") else repr(part).encode())
    return whole.hexdigest()


def _make_features(*arguments: object) -> Callable[[Path, Path], list[object]]:
    """Return the command that makes features of noise."""
    return lambda i, d: ["features", "--data", i / "noise96.npz", *arguments, "--cache-dir", d]


_DISCRIMINATOR = _make_features("--weights", "untrained:svhn32:0")


def _make_batch_norm(inputs: Path, folder: Path) -> None:
    """Leave the cached statistics alone."""
    _do(*_DISCRIMINATOR(inputs, folder), folder=folder)
    for path in folder.glob("*.h5"):
        path.unlink()


def _make_codebook(inputs: Path, folder: Path) -> None:
    """Leave the codebook alone."""
    _do(*SCENARIOS["K-means"].arguments(inputs, folder), folder=folder)
    for path in [*folder.glob("*.h5"), folder / "r.json"]:
        path.unlink()


def _make_weights(inputs: Path, folder: Path) -> None:
    """Copy the networks of a training."""
    (folder / "w.safetensors").write_bytes((inputs / "run" / "discriminator.safetensors").read_bytes())


def _use_weights(inputs: Path, folder: Path) -> Work:
    """Load a network and its card."""
    from dcgan_eval.models.weights import load_network, read_card

    def use() -> None:
        path = folder / "w.safetensors"
        card, network = read_card(path), load_network(path)
        print(_hash(card, network.preset, *(v.numpy() for v in network.state_dict().values())))

    return use


def _make_record_of_digits(inputs: Path, folder: Path) -> None:
    """Measure the pixels of digits."""
    _do("baseline", "pixels", "digits", "--record", folder / "r.json", folder=folder)


def _make_record(inputs: Path, folder: Path) -> None:
    """Copy a record, and the features behind it."""
    (folder / "r.json").write_bytes((inputs / "records" / "a.json").read_bytes())


def _record_says(folder: Path, outcome: Outcome) -> str:
    """Return everything in a record; numbers that print alike are alike."""
    return json.dumps(json.loads((folder / "r.json").read_text()), sort_keys=True)


def _use_store(inputs: Path, folder: Path) -> Work:
    """Read the features that a cache holds."""
    from tiny_encoder import make

    from dcgan_eval import extract, load_data

    def use() -> None:
        store = extract(make(), load_data(str(inputs / "noise600.npz"), "all"), cache_dir=folder)
        print(_hash(store.read(), store.layers, store.read(layers=["2"])))

    return use


def _use_pack(inputs: Path, folder: Path) -> Work:
    """Read the images of a pack."""
    from dcgan_eval import load_data

    def use() -> None:
        images = load_data(str(folder / "p.h5"), "all")
        print(_hash(images.images[:], images.labels, images.class_names, getattr(images, "names", None)))

    return use


def _make_parts(inputs: Path, folder: Path) -> None:
    """Kill a pack before it gets its name."""
    pack = SCENARIOS["pack"].arguments(inputs, folder)
    trace = folder.parent / "trace.txt"
    run(pack, folder.parent / "log.txt", Fault(Action.COUNT, 0, folder, trace=trace))
    calls = [(*line.split(" ", 2), "")[:3] for line in trace.read_text().splitlines()]
    (folder / "p.h5").unlink()
    naming = next(int(number) for number, call, name in calls if call.startswith("rename") and name == "/p.h5")
    _do(*pack, folder=folder, fault=Fault(Action.KILL_BEFORE, naming, folder))


def _make_run(inputs: Path, folder: Path) -> None:
    """Train for a while."""
    _do(*TRAIN(inputs, folder / "run"), "--images", "160", folder=folder)


def _run_file(pattern: str) -> Flip:
    """Return a file of a training, which is then continued."""
    return Flip(
        _make_run,
        pattern,
        lambda i, d: [*TRAIN(i, d / "run"), "--images", "200", "--resume", "--allow-changes"],
        _files("run/*.safetensors", "run/*.csv"),
        # the run goes on from the checkpoint before, and says so
        re.compile(r"damaged; continuing from|does not match|left out", re.IGNORECASE),
    )


def _make_baseline(inputs: Path, folder: Path) -> None:
    """Copy the baseline of the gate."""
    from dcgan_eval.protocols.regress import baseline_path

    (folder / "b.json").write_bytes(baseline_path("smoke").read_bytes())


def _use_baseline(inputs: Path, folder: Path) -> Work:
    """Load a baseline."""
    from dcgan_eval.protocols.regress import load_baseline, our_suite

    return lambda: print(json.dumps(load_baseline(folder / "b.json", our_suite("smoke")), sort_keys=True))


def _make_bundled(inputs: Path, folder: Path) -> None:
    """Copy the manifest of the bundled weights."""
    from dcgan_eval.models.bundled import bundled_dir

    (folder / "manifest.json").write_bytes((bundled_dir() / "manifest.json").read_bytes())


def _use_bundled(inputs: Path, folder: Path) -> Work:
    """Find each of the bundled weights through the manifest."""
    from dcgan_eval.files import sha256_of
    from dcgan_eval.models import bundled

    def use() -> None:
        real = bundled.bundled_dir()
        for path in real.iterdir():
            if path.name != "manifest.json":
                (folder / path.name).symlink_to(path)
        bundled.bundled_dir = lambda: folder
        manifest = bundled.read_manifest()
        names = [(name, kind) for name in sorted(manifest["weights"]) for kind in bundled.bundled_networks(name)]
        print(manifest["default"], [(n, k, sha256_of(bundled.resolve(n, k))) for n, k in names])

    return use


FLIPS = {
    "batch-norm cache": Flip(_make_batch_norm, "batchnorm-*", _DISCRIMINATOR, _files("*.h5")),
    "K-means codebook": Flip(
        _make_codebook, "kmeans-*", SCENARIOS["K-means"].arguments, _files("*.h5", "r.json", "*.safetensors")
    ),
    "weights of one's own": Flip(_make_weights, "w.safetensors", _use_weights, _text),
    "record, shown": Flip(_make_record, "r.json", lambda i, d: ["show", d / "r.json"], _record_says),
    "record, verified": Flip(_make_record_of_digits, "r.json", lambda i, d: ["verify", d / "r.json"], _record_says),
    "feature store": Flip(
        lambda i, d: _do("features", "--data", i / "noise600.npz", *TINY, "--cache-dir", d, folder=d),
        "*.h5",
        _use_store,
        _text,
    ),
    "feature store, unfinished": Flip(lambda i, d: _make_partial(i, d), "*.partial", _use_store, _text),
    "pack": Flip(lambda i, d: _do(*SCENARIOS["pack"].arguments(i, d), folder=d), "p.h5", _use_pack, _text),
    "parts of a pack": Flip(_make_parts, "p.h5.parts/*", SCENARIOS["pack"].arguments, _files("p.h5")),
    "regress baseline": Flip(_make_baseline, "b.json", _use_baseline, _text),
    "training log": _run_file("run/log.csv"),
    "training configuration": _run_file("run/config.json"),
    "checkpoint manifest": _run_file("run/round-*/checkpoint.json"),
    "checkpoint": _run_file("run/round-*/state*"),
    "manifest of the weights": Flip(_make_bundled, "manifest.json", _use_bundled, _text),
}


def _make_partial(inputs: Path, folder: Path) -> None:
    """Give a complete store the name of an unfinished one."""
    FLIPS["feature store"].prepare(inputs, folder)
    for path in folder.glob("*.h5"):
        path.rename(path.with_name(path.name + ".partial"))
