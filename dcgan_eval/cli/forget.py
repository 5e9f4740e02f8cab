"""``dcgan-eval forget``: a generator that no longer draws an object, as the paper's figure 6."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from ..errors import DcganEvalError
from ..files import check_target, sha256_of, write_file
from ..insight.finding import Finding
from ..report.annotate import annotation_page
from ..report.panels import write_rows
from .console import out
from .findings import checked, drawn, opened, report_finding, samples_option, seed_option, weights_option
from .options import device_option, example, json_option, to_option

if TYPE_CHECKING:
    from ..insight.forget import Forgotten

_COLUMNS, _SHOWN = 12, 36  # images in the picture


@click.command(epilog=example("dcgan-eval forget --weights svhn.generator.safetensors --annotate --out boxes.html"))
@click.option("--boxes", type=click.Path(path_type=Path, dir_okay=False), help="Boxes around an object, JSON.")
@click.option("--annotate", is_flag=True, help="Write the page on which the boxes are drawn instead.")
@samples_option(150)
@weights_option
@to_option(
    "path", help="Picture to write, the finding goes beside it as JSON; or the page [default: forget.png, boxes.html]."
)
@seed_option
@device_option
@json_option
def forget(
    boxes: Path | None,
    annotate: bool,
    samples: int,
    weights: str | None,
    path: Path | None,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Find the maps of the generator that draw an object, from boxes around it, and draw the same z without them.

    A logistic regression tells positions in boxes from others by the maps of the second-highest layer; every map with a
    positive weight is set to 0. The number says how much more the pixels in boxes change than those outside.
    """
    from ..insight import forget as forgetting
    from ..models.dcgan import grid_latents

    if annotate == (boxes is not None):
        raise DcganEvalError("Either boxes are drawn or they are used", expected="one of --annotate and --boxes FILE")
    path = path or Path("boxes.html" if annotate else "forget.png")
    if annotate:
        check_target(path, "--out", suffixes=(".html", ".htm"))
    finding_path = path if annotate else checked(path)
    pair, still, place = opened(weights, None, device, seed, "forget")
    made_from = {"generator": pair.hashes["generator"], "seed": seed}
    z_NZ = grid_latents(pair.preset, samples, seed)
    if boxes is None:
        write_file(path, annotation_page(drawn(still.images, z_NZ, place), made_from))
        out.print(str(path), highlight=False, markup=False, soft_wrap=True)
        return
    boxes_B5 = forgetting.read_boxes(boxes, pair.preset, samples, made_from)
    found = forgetting.forget(still, z_NZ, boxes_B5, seed, place)
    caption = _picture(found, boxes_B5, path)
    settings = {"boxes": len(boxes_B5), "images": len(found.images), "samples": samples, "preset": pair.preset.name}
    hashes = pair.hashes | {"boxes": sha256_of(boxes)}
    finding = Finding("forget", "inside_over_outside", found.measured(), settings, seed, hashes)
    sentence = (
        f"{len(found.dropped)} of {found.num_maps} maps dropped, held-out accuracy {100 * found.accuracy:.1f} %; "
        f"pixels in boxes change {found.ratio:.2f} times as much as others, with random maps {found.ratio_random:.2f}"
    )
    alt = "Rows of generated images with boxes, the same images without the maps, and without random maps"
    report_finding(finding, finding_path, {path: (alt, caption)}, sentence, as_json)


def _picture(found: Forgotten, boxes_B5: np.ndarray, path: Path) -> str:
    """Write images with their boxes, without the maps, and without random ones; return the caption."""
    images_NHWC = found.images.copy()
    for image_HWC, sample in zip(images_NHWC, np.unique(boxes_B5[:, 0]), strict=True):
        for x0, y0, x1, y1 in boxes_B5[boxes_B5[:, 0] == sample, 1:]:
            image_HWC[[y0, y1 - 1], x0:x1] = image_HWC[y0:y1, [x0, x1 - 1]] = 255
    rows = []
    for start in range(0, min(_SHOWN, len(images_NHWC)), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        rows += [("boxes", images_NHWC[part]), (f"without {len(found.dropped)} maps", found.without[part])]
        rows += [(f"without {len(found.dropped)} random maps", found.without_random[part])]
    write_rows(rows, path)
    return (
        f"Images with boxes, without the {len(found.dropped)} maps that answer to them, and without as many random ones"
    )
