"""``dcgan-eval quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..protocols.catalog import get_protocol, load_protocol_data
from ..report.tables import comparison_table, result_panel
from .console import err, out, progress_view
from .options import example

if TYPE_CHECKING:
    from ..protocols.sources import Filler

_NEXT = """\
What next
  dcgan-eval show {record}
  dcgan-eval svm cifar10-small --data-dir DIR     4,000 / 2,000 real photographs, two minutes
  dcgan-eval svm cifar10 --download               the paper's protocol
  dcgan-eval features --data PATH --layer all     28,672 features per image of your own, in HDF5
  dcgan-eval weights list                         what is bundled"""


@click.command(epilog=example("dcgan-eval quickstart"))
@click.option(
    "-o",
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("quickstart"),
    show_default=True,
    help="Folder for features, records and the figure.",
)
def quickstart(folder: Path) -> None:
    """Run the whole pipeline on scikit-learn's digits: no data, network or GPU needed."""
    from ..features.encoders import load_encoder
    from ..protocols.evaluate import evaluate
    from ..protocols.settings import Place
    from ..protocols.sources import EncoderFeatures, PixelFeatures
    from ..report.figures import comparison_figure

    protocol, place = get_protocol("digits"), Place(cache_dir=folder / "features")
    sources: dict[str, Filler] = {
        "discriminator": EncoderFeatures(load_encoder()),
        "pixels": PixelFeatures(),
        "untrained": EncoderFeatures(load_encoder("untrained")),
    }
    records, paths = [], []
    for number, (name, source) in enumerate(sources.items(), start=1):
        err.print(f"{number} of {len(sources)}: {name}", highlight=False)
        with progress_view() as progress:
            records.append(evaluate("digits", source, place=place, progress=progress))
        paths.append(records[-1].write(folder / f"{name}.json"))
    _, test = load_protocol_data(protocol)
    figure = comparison_figure(records, test.images.images[::12][:40], folder / "quickstart.png", protocol.title)
    out.print(result_panel(records[0], protocol.title))
    out.print(comparison_table(records, "The same protocol, other features"))
    out.print(f"Records: {', '.join(map(str, paths))}\nFigure:  {figure}\n", highlight=False)
    out.print(_NEXT.format(record=paths[0]), highlight=False, markup=False)
