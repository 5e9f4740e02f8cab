"""Put a training run into ``pretrained/``: networks with float16 kernels, model card, samples, losses, manifest.

    python benchmarks/bundle_weights.py runs/imagenet32 --name imagenet32-first --data "60,000 Tiny ImageNet images" \
        --default --record benchmarks/results/digits.json --record benchmarks/results/cifar10.json

With ``--card-only`` the networks stay as they are and the card takes up the records measured with them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dcgan_eval.models.dcgan import Generator, draw_samples
from dcgan_eval.models.weights import file_sha256, load_network, read_card, save_network
from dcgan_eval.records import Record, load_record
from dcgan_eval.report.figures import training_figure, write_image_grid
from dcgan_eval.training.config import TrainingConfig
from dcgan_eval.training.watch import read_table

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
CARD = """# {name}

A DCGAN ({preset}) trained by `dcgan-eval train-imagenet`; loaded by name with `--weights {name}`.

| | |
|---|---|
| data | {data} |
| labels | not used |
| recipe | the paper's: Adam {learning_rate:g}, beta1 {beta1:g}, minibatch {batch_size}, alternating updates, \
each on its own minibatch, non-saturating cross-entropy |
| departures | {departures} |
| images seen | {seen_images:,} (D and G minibatches together, as the paper counts), of {total_images:,} planned |
| device | {device} |
| last losses | D {d_loss:.3f}, G {g_loss:.3f}, D(x) {d_real:.3f}, D(G(z)) {d_fake:.3f} |
| stored as | safetensors, kernels in float16, batch norm in float32 |
| licence | weights MIT; Tiny ImageNet is for non-commercial research use |

## Measured with these weights

{results}

![samples from fixed z]({name}.samples.png)

![losses against images seen]({name}.losses.png)
"""


def main() -> None:
    """Read the arguments and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--device", required=True, help="what it was trained on, the machine")
    parser.add_argument("--default", action="store_true", help="make these the default weights")
    parser.add_argument("--best", action="store_true", help="take the networks with the best probe")
    parser.add_argument("--card-only", action="store_true")
    parser.add_argument("--record", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    card = _write_networks(arguments)
    _write_card(arguments, card)
    _write_manifest(arguments, card)


def _write_networks(arguments: argparse.Namespace) -> dict:
    """Write D and G in float16 with their sample grid and curves; return the card's facts."""
    files = {kind: PRETRAINED / f"{arguments.name}.{kind}.safetensors" for kind in ("discriminator", "generator")}
    if arguments.card_only:
        return read_card(files["discriminator"])["card"]
    networks = arguments.run / "best" if arguments.best else arguments.run
    facts = read_card(networks / "discriminator.safetensors")["card"]
    facts |= {"data": arguments.data, "device": arguments.device}
    for kind, file in files.items():
        network = load_network(networks / f"{kind}.safetensors", kind)
        save_network(network, file, card=facts, half=True)
        if isinstance(network, Generator):
            write_image_grid(draw_samples(network, 128), 16, PRETRAINED / f"{arguments.name}.samples.png")
    tables = (read_table(arguments.run / f"{name}.csv") for name in ("log", "probe"))
    training_figure(*tables, PRETRAINED / f"{arguments.name}.losses.png")
    return facts


def _write_card(arguments: argparse.Namespace, facts: dict) -> None:
    """Write the model card."""
    records = [(path, load_record(path)) for path in arguments.record]
    rows = [f"| `{r.protocol}` | {100 * r.score:.2f} | {_spread(r)} | {path.name} |" for path, r in records]
    header = ["| protocol | accuracy % | 95 % interval | record (benchmarks/results) |", "|---|---:|---:|---|"]
    config = facts["config"]
    departures = [f"{key} {value}" for key, value in TrainingConfig(**config).departures().items()]
    text = CARD.format(
        name=arguments.name,
        results="\n".join(header + rows) if rows else "Nothing yet.",
        departures=", ".join(departures) or "none",
        data=arguments.data,
        device=arguments.device,
        seen_images=facts["seen_images"],
        **{k: config[k] for k in ("preset", "learning_rate", "beta1", "batch_size", "total_images")},
        **{k: facts["last_log"][k] for k in ("d_loss", "g_loss", "d_real", "d_fake")},
    )
    (PRETRAINED / f"{arguments.name}.md").write_text(text)


def _spread(record: Record) -> str:
    """Return a record's interval."""
    return " to ".join(f"{100 * value:.2f}" for value in record.ci95)


def _write_manifest(arguments: argparse.Namespace, facts: dict) -> None:
    """Add the weights to the manifest."""
    path = PRETRAINED / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {"default": arguments.name, "weights": {}}
    entry = {
        "preset": facts["config"]["preset"],
        "summary": f"{arguments.data}, {facts['seen_images'] / 1e6:.2f} million images seen",
        "files": [f"{arguments.name}.{end}" for end in ("md", "samples.png", "losses.png")],
    }
    for kind in ("discriminator", "generator"):
        file = PRETRAINED / f"{arguments.name}.{kind}.safetensors"
        entry[kind] = {"file": file.name, "sha256": file_sha256(file), "size_bytes": file.stat().st_size}
    manifest["weights"][arguments.name] = entry
    if arguments.default:
        manifest["default"] = arguments.name
    path.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
