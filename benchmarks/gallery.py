"""Draw README's gallery from the bundled generators: samples, arithmetic and a turn of faces, a walk, digits.

    python benchmarks/gallery.py                     # docs/pictures/gallery.png

``docs/gallery.md`` shows each experiment whole, with its number and its command.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcgan_eval.insight.arithmetic import arithmetic, turn
from dcgan_eval.insight.drawing import chosen_latents, in_batches, load_pair, settled
from dcgan_eval.insight.walk import path_between
from dcgan_eval.models.dcgan import to_uint8
from dcgan_eval.report.panels import write_rows

OUT = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "gallery.png"
CPU = torch.device("cpu")
COLUMNS, DIGITS = 9, 20
SMILING, SOBER, MEN = "24,92,112", "72,121,26", "45,99,5"  # samples of faces64, by their numbers
LEFT, RIGHT, TURNED = "6,32,52,103", "0,54,61,66", "26"
SAMPLES, ANCHORS = "80,19,45,76,23,92,2,107,1", "7,5,48"
COLOURS = 256


class Drawn:
    """A bundled generator's images, by latent vector or by number."""

    def __init__(self, name: str):
        self.pair = load_pair(name, None, CPU)
        self.draw = settled(self.pair.G, 0)

    def z(self, numbers: str) -> Tensor:
        """Return the latent vectors of samples."""
        return chosen_latents(numbers, self.pair.preset, 128, 0)

    def images(self, z_NZ: Tensor) -> np.ndarray:
        """Return images, uint8, (N, H, W, C)."""
        return to_uint8(in_batches(self.draw, z_NZ, CPU))


def main() -> None:
    """Draw, and write one picture of few colours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    faces, digits = Drawn("faces64"), Drawn("mnist28_keras")
    terms = [(1, faces.z(SMILING)), (-1, faces.z(SOBER)), (1, faces.z(MEN))]
    result_NZ = arithmetic(faces.draw, terms).z[3:6]
    turned_TZ = turn(faces.draw, faces.z(LEFT), faces.z(RIGHT), faces.z(TURNED), steps=COLUMNS).z[0]
    rows = [
        ("samples of faces64", faces.images(faces.z(SAMPLES))),
        ("a walk between three of them", faces.images(path_between(faces.z(ANCHORS), COLUMNS // 2, "great-circle"))),
        ("three smiling women - three who do not smile + three men", _sum(faces, terms, result_NZ)),
        ("a turn vector, added in steps", faces.images(turned_TZ)),
        ("samples of mnist28_keras", digits.images(digits.z(",".join(map(str, range(DIGITS)))))),
    ]
    with tempfile.TemporaryDirectory() as folder:
        whole = Image.open(write_rows(rows, Path(folder) / "gallery.png"))
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        whole.quantize(COLOURS).save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


def _sum(faces: Drawn, terms: list[tuple[int, Tensor]], result_NZ: Tensor) -> np.ndarray:
    """Return the mean of each concept, a gap, and the result among two neighbours."""
    means = faces.images(torch.stack([z_KZ.mean(0) for _, z_KZ in terms]))
    return np.concatenate([means, np.full_like(means[:1], 255), faces.images(result_NZ)])


if __name__ == "__main__":
    main()
