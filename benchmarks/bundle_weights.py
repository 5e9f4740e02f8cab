"""Put a training run into ``pretrained/``: networks with float16 kernels, model card, samples, curves, manifest.

    python benchmarks/bundle_weights.py runs/imagenet32 --name imagenet32-paper --data "60,000 Tiny ImageNet images" \
        --device "one core" --default --record benchmarks/results/digits.json --record benchmarks/results/cifar10.json

With ``--card-only`` the networks stay as they are and the card takes up the records measured with them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from dcgan_eval.files import sha256_of
from dcgan_eval.models.bundled import manifest_digest
from dcgan_eval.models.dcgan import Generator, draw_samples
from dcgan_eval.models.weights import NETWORKS, load_network, read_card, save_network
from dcgan_eval.records import Record, load_record
from dcgan_eval.report.figures import training_figure, write_image_grid
from dcgan_eval.training.config import TrainingConfig
from dcgan_eval.training.contrad import SHARE
from dcgan_eval.training.log import read_table
from dcgan_eval.training.start import all_seen

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
CARD = """# {name}

{what}; loaded by name with `--weights {name}`.

| | |
|---|---|
| data | {data} |
| labels | not used |
| recipe | {recipe} |
| departures | {departures} |
| images seen | {seen} |
| device | {device} |
| chosen by | {chosen_by} |
| last losses | {losses} |
| stored as | safetensors, kernels in float16, batch norm in float32 |
| licence | weights MIT; {licence} |
{results}{pictures}"""
RESULTS = """
## Measured with these weights

The rows `ours: {name}` of `docs/results.md` and of README's table.

| protocol | accuracy % | 95 % interval, draws and test images | record (benchmarks/results) |
|---|---:|---:|---|
{rows}
"""
WHAT = {
    "adversarial": "A DCGAN ({preset}) trained by `dcgan-eval {command}`",
    "contrastive": "The discriminator of a DCGAN ({preset}) trained alone, without a generator, by "
    "`dcgan-eval {command} --recipe contrastive`; its linear unit is untrained",
    "contrad": "A DCGAN ({preset}) trained by `dcgan-eval {command} --recipe contrad`: the discriminator by contrast, "
    "the generator through it",
}
RECIPE = {
    "adversarial": "the paper's: Adam {learning_rate:g}, beta1 {beta1:g}, minibatch {batch_size}, alternating updates, "
    "each on its own minibatch, non-saturating cross-entropy",
    "contrastive": "kernels of K-means on whitened patches, layer by layer, then {loss} between two views of "
    "{view_size}x{view_size} pixels: Adam {learning_rate:g}, beta1 {beta1:g}, beta2 {beta2:g}, minibatch {batch_size}, "
    "temperature {temperature:g}, linear decay over the last {decay_images:,} images",
    "contrad": "{loss} between two views of {view_size}x{view_size} pixels: Adam {learning_rate:g}, beta1 {beta1:g}, "
    "beta2 {beta2:g}, minibatch {batch_size}, temperature {temperature:g}, linear decay over the last {decay_images:,} "
    "images; in every fourth round {generated} generated images are set apart from real ones, D's linear unit alone "
    "learns the GAN's loss, and G the non-saturating one through D (arXiv:2103.09742)",
}
SEEN = {
    "adversarial": "{seen_images:,} (D and G minibatches together, as the paper counts), of {total_images:,} planned",
    "contrastive": "{seen_images:,}, each as two views, of {total_images:,} planned",
}
SEEN["contrad"] = SEEN["contrastive"]
GRID_ROWS = 8  # of the grids that training writes
LABELS = {
    "d_loss": "D",
    "g_loss": "G",
    "d_real": "D(x)",
    "d_fake": "D(G(z))",
    "contrastive_loss": "contrastive",
    "apart_loss": "apart",
    "partner_accuracy": "partners found",
}


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--device", required=True, help="what it was trained on, the machine")
    parser.add_argument("--default", action="store_true", help="make these the default weights")
    parser.add_argument("--best", action="store_true", help="take the networks with the best probe")
    parser.add_argument("--licence", default="Tiny ImageNet is for non-commercial research use", help="of the data")
    parser.add_argument("--start", help="what it started from, if not one run, in words")
    parser.add_argument("--start-images", type=int, help="how many images the discriminator had seen by then")
    parser.add_argument("--checkout-only", action="store_true", help="not in the wheel: see exclude in pyproject.toml")
    parser.add_argument("--card-only", action="store_true")
    parser.add_argument("--record", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    card = _write_networks(arguments)
    _write_card(arguments, card)
    _write_manifest(arguments, card)


def _kinds(folder: Path, stem: str = "") -> dict[str, Path]:
    """Return the networks' files in a folder: the discriminator's and, if there is one, the generator's."""
    files = {kind: folder / f"{stem}{kind}.safetensors" for kind in NETWORKS}
    return {kind: file for kind, file in files.items() if file.exists()}


def _write_networks(arguments: argparse.Namespace) -> dict:
    """Write the networks in float16 with their sample grid and curves; return the card's facts."""
    if arguments.card_only:
        return read_card(_kinds(PRETRAINED, f"{arguments.name}.")["discriminator"])["card"]
    networks = _kinds(arguments.run / "best" if arguments.best else arguments.run)
    facts = read_card(networks["discriminator"])["card"]
    facts |= {"data": arguments.data, "device": arguments.device}
    if arguments.start:
        facts["started_from"] = {"name": arguments.start, "seen_images": arguments.start_images}
    for kind, file in networks.items():
        network = load_network(file, kind)
        save_network(network, PRETRAINED / f"{arguments.name}.{kind}.safetensors", card=facts, half=True)
        if isinstance(network, Generator):
            count = 128 if network.preset.image_size <= 32 else 64
            write_image_grid(draw_samples(network, count), 16, PRETRAINED / f"{arguments.name}.samples.png")
            _write_progress(arguments.run / "samples", PRETRAINED / f"{arguments.name}.progress.png")
    tables = (read_table(arguments.run / f"{name}.csv") for name in ("log", "probe"))
    training_figure(*tables, PRETRAINED / f"{arguments.name}.losses.png")
    return facts


def _write_progress(samples: Path, target: Path) -> None:
    """Put the first rows of a run's sample grids below each other: the same latent vectors as training goes on."""
    grids = [Image.open(path).convert("RGB") for path in sorted(samples.glob("*.png"))]
    if grids:
        width, height = grids[0].width, grids[0].height // GRID_ROWS
        rows = Image.new("RGB", (width, height * len(grids)), "white")
        for number, grid in enumerate(grids):
            rows.paste(grid.crop((0, 0, width, height)), (0, number * height))
        rows.save(target, optimize=True)


def _pictures(name: str) -> dict[str, str]:
    """Return the pictures of the weights: file name -> caption."""
    captions = {
        f"{name}.samples.png": "samples from fixed z",
        f"{name}.progress.png": "the same z as training goes on, from above",
        f"{name}.losses.png": "losses against images seen",
    }
    return {file: caption for file, caption in captions.items() if (PRETRAINED / file).exists()}


def _write_card(arguments: argparse.Namespace, facts: dict) -> None:
    """Write the model card."""
    records = [(path, load_record(path)) for path in arguments.record]
    rows = [f"| `{r.protocol}` | {100 * r.score:.2f} | {_spread(r)} | {path.name} |" for path, r in records]
    config = TrainingConfig(**facts["config"])
    values = config.as_dict() | {"seen_images": facts["seen_images"]}
    values["generated"] = config.batch_size // SHARE
    values["loss"] = "decoupled NT-Xent" if config.decoupled else "NT-Xent"
    values["command"] = "train-imagenet" if config.preset == "imagenet32" else f"train {config.preset}"
    departures = [f"{key} {value}" for key, value in config.departures().items()]
    earlier, probe = facts.get("started_from"), facts.get("probe")
    seen = SEEN[config.objective].format(**values)
    for event in facts.get("history", []):
        changes = ", ".join(f"{key} from {old} to {new}" for key, (old, new) in event["changed"].items())
        departures.append(f"changed after round {event['rounds_done']}: {changes}")
    if earlier:
        seen += f", after the {earlier['seen_images']:,} of {earlier['name']}, which it started from"
    text = CARD.format(
        name=arguments.name,
        what=WHAT[config.objective].format(**values),
        recipe=RECIPE[config.objective].format(**values),
        seen=seen,
        results=RESULTS.format(name=arguments.name, rows="\n".join(rows)) if rows else "",
        licence=arguments.licence,
        departures=", ".join(departures) or "none",
        data=arguments.data,
        device=arguments.device,
        chosen_by=f"the best probe on training rows of CIFAR-10: validation accuracy {100 * probe['score']:.1f} %"
        if probe
        else "the end of the run",
        losses=", ".join(
            f"{label} {facts['last_log'][key]:.3f}" for key, label in LABELS.items() if key in facts["last_log"]
        ),
        pictures="".join(f"\n![{caption}]({file})\n" for file, caption in _pictures(arguments.name).items()),
    )
    (PRETRAINED / f"{arguments.name}.md").write_text(text)


def _spread(record: Record) -> str:
    """Return a record's interval."""
    return " to ".join(f"{100 * value:.2f}" for value in record.ci95_with_images or record.ci95)


def _write_manifest(arguments: argparse.Namespace, facts: dict) -> None:
    """Add the weights to the manifest."""
    path = PRETRAINED / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"default": arguments.name, "weights": {}}
    seen = all_seen(facts) or facts["seen_images"]
    entry = {
        "preset": facts["config"]["preset"],
        "summary": f"{arguments.data}, {seen / 1e6:.2f} million images seen",
        "files": [f"{arguments.name}.md", *_pictures(arguments.name)],
    }
    for kind, file in _kinds(PRETRAINED, f"{arguments.name}.").items():
        entry[kind] = {"file": file.name, "sha256": sha256_of(file), "size_bytes": file.stat().st_size}
    if arguments.checkout_only:
        entry["checkout_only"] = True
    manifest["weights"][arguments.name] = entry
    if arguments.default:
        manifest["default"] = arguments.name
    manifest["sha256"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
