"""The page of boxes in a real browser: mouse, touch and keyboard draw them, and that is what is downloaded."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from test_page import CHROMIUM, Outline, browse

from dcgan_eval.report.annotate import annotation_page

MADE_FROM = {"generator": "</script><b>", "seed": 3}

# What a person does, with pixels of the sample as coordinates; the blob that would be downloaded becomes the title.
DEEDS = """
<script>
addEventListener("load", () => {
  const area = () => big.getBoundingClientRect();
  const point = (type, target, x, y, pointerType) => target.dispatchEvent(new PointerEvent(type, {
    bubbles: true, isPrimary: true, pointerType, button: 0,
    clientX: area().left + (x + 0.5) / width * area().width,
    clientY: area().top + (y + 0.5) / height * area().height}));
  const drag = (x0, y0, x1, y1, pointerType) => {
    point("pointerdown", big, x0, y0, pointerType); point("pointermove", window, 1, 1, pointerType);
    point("pointermove", window, x1, y1, pointerType); point("pointerup", window, x1, y1, pointerType); };
  const key = (name, times = 1, shiftKey = false) => {
    for (; times; times--) big.dispatchEvent(new KeyboardEvent("keydown", {key: name, shiftKey, bubbles: true})); };
  drag(2, 3, 6, 8, "mouse");
  drag(4, 4, 4, 4, "mouse");                        // a click draws nothing
  at("samples").children[17].click();
  drag(7, 9, 1, 99, "touch");                       // from the lower right, and beyond the lower edge
  point("pointerdown", big, 0, 0, "touch"); window.dispatchEvent(new PointerEvent("pointercancel"));
  key("PageDown"); key("ArrowLeft", 30); key("ArrowUp", 30); key("Enter"); key("ArrowRight", 1, true); key("Enter");
  key("Enter"); key("Escape"); key("Enter"); key("Enter"); key("Delete");
  at("previous").click(); at("next").click(); at("next").click(); drag(0, 0, 5, 5, "mouse"); at("undo").click();
  const make = URL.createObjectURL;
  URL.createObjectURL = blob => { blob.text().then(text => { document.title = text; }); return make.call(URL, blob); };
  at("download").click();
});
</script>
"""


def page(channels: int = 3) -> str:
    """Return the page of twenty samples of 10 x 12 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (20, 12, 10, channels), dtype=np.uint8)
    return annotation_page(images, MADE_FROM)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed: apt-get install chromium")
def test_boxes_are_drawn_by_mouse_touch_and_keyboard(tmp_path: Path) -> None:
    path = tmp_path / "boxes.html"
    path.write_text(page().replace("</body>", DEEDS + "</body>"))
    done = browse(path, "--dump-dom", "--virtual-time-budget=2000")
    assert "CONSOLE" not in done.stderr, done.stderr
    title = re.search(r"<title>(.*?)\s*</title>", done.stdout, re.DOTALL)
    assert title is not None
    drawn = json.loads(html.unescape(title[1]))
    assert drawn == {
        **MADE_FROM,
        "samples": 20,
        "boxes": [[0, 2, 3, 7, 9], [17, 1, 9, 8, 12], [18, 0, 0, 5, 1]],
    }
    assert "Sample 19 of 20. Boxes: 0 here, 3 in all." in done.stdout
    assert 'aria-label="Sample 17, boxes: 1"' in done.stdout
    assert len(re.findall(r'aria-current="true"', done.stdout)) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_page_needs_nothing_else(channels: int) -> None:
    text = page(channels)
    for tag, attributes in Outline(text).attributes:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
    assert not re.search(r"https?:|@import|url\(", text)
    assert "</script><b>" not in text  # what was made from is escaped
