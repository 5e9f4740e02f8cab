"""The page on which a person judges near-duplicates: groups that were found, and pairs that were none. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .escaping import html_templates
from .page import array_picture

Shown = tuple[str, np.ndarray]  # name and uint8 image (H, W, C)


def duplicates_page(summary: str, groups: Sequence[Sequence[Shown]], pairs: Sequence[tuple[int, Shown, Shown]]) -> str:
    """Return one offline page.

    Parameters
    ----------
    summary : str
        What was found, in a sentence.
    groups : sequence of sequence of (str, ndarray)
        The image that is kept, then those that are dropped.
    pairs : sequence of (int, (str, ndarray), (str, ndarray))
        Images that are both kept, with the number of bits in which their codes differ.
    """
    rows = [[array_picture(image, name, name) for name, image in group] for group in groups]
    near = [(bits, [array_picture(image, name, name) for name, image in pair]) for bits, *pair in pairs]
    return html_templates().get_template("duplicates.html.j2").render(summary=summary, groups=rows, pairs=near)
