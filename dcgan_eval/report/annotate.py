"""The page on which a person draws boxes around an object in numbered samples. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .escaping import html_templates
from .page import array_picture

_COLUMNS = 16


def annotation_page(images_NHWC: np.ndarray, made_from: Mapping[str, Any]) -> str:
    """Return one offline page that draws boxes with mouse, touch or keyboard and downloads them as ``boxes.json``.

    Parameters
    ----------
    images_NHWC : ndarray
        uint8 samples, C is 1 or 3; their indices name them.
    made_from : mapping
        Plain values that are written beside the boxes, so that they are not used for other samples.

    Returns
    -------
    str
        HTML with everything inline.
    """
    count, height, width = images_NHWC.shape[:3]
    blank = np.zeros((-count % _COLUMNS, *images_NHWC.shape[1:]), np.uint8)
    rows = np.split(np.concatenate([images_NHWC, blank]), -(-count // _COLUMNS))
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    sizes = {"count": count, "width": width, "height": height, "columns": _COLUMNS}
    picture = array_picture(sheet, "Samples")
    return (
        html_templates()
        .get_template("boxes.html.j2")
        .render(sheet=picture.data, sizes=sizes, made_from=dict(made_from))
    )
