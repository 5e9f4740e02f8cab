"""The page: from records alone, escaped, self-contained, and without a complaint from a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcgan_eval.errors import RecordError
from dcgan_eval.records import Record, load_record
from dcgan_eval.report.charts import Series, line_chart, nice_ticks
from dcgan_eval.report.page import Examples, array_picture, build_page, training_charts

ROOT = Path(__file__).parents[3]
OLD = sorted((ROOT / "tests" / "regression" / "records").glob("schema-1-*.json"))
PATHS = [*OLD, ROOT / "benchmarks" / "results" / "digits.json"]
RECORDS = [(path, load_record(path)) for path in PATHS]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
_VOID = {"meta", "link", "img", "br", "line", "polyline", "circle"}


class Outline(HTMLParser):
    """Collects attributes, and checks that tags close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def full_page(tmp_path: Path) -> str:
    """Every section filled."""
    (tmp_path / "log.csv").write_text("round,seen_images,unix_time_s,d_loss,g_loss\n1,128,1,0.9,1.1\n2,256,2,0.7,1.4\n")
    (tmp_path / "probe.csv").write_text("seen_images,accuracy\n128,0.41\n256,0.45\n")
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pictures = [array_picture(image, f"digit {i}", str(i)) for i in range(3)]
    examples = Examples([pictures], pictures, "")
    layers = [(p, replace(r, features={**r.features, "layers": [f"conv{i}"]})) for i, (p, r) in enumerate(RECORDS[-1:])]
    return build_page([*RECORDS, *layers], run_dir=tmp_path, samples=pictures[:1], examples=examples)


def test_the_page_has_every_number_its_certificate_and_its_command(tmp_path: Path) -> None:
    text = full_page(tmp_path)
    for _, record in RECORDS:
        assert f"{100 * record.score:.2f}" in text
        assert f"gap {record.duality_gap:.0e}" in text
        assert record.command in text
        assert record.dataset_fingerprint in text
        assert record.data["test"]["fingerprint"] in text
    assert text.count('class="chosen"') == len(RECORDS) + 1
    assert "Accuracy by layer" in text.replace("Test accuracy by layer", "Accuracy by layer")
    assert "Probe during training" in text


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    text = full_page(tmp_path)
    outline = Outline(text)
    for tag, attributes in outline.attributes:
        for name in ("src", "href"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#")), (tag, target)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_pictures_have_words_and_links_have_targets(tmp_path: Path) -> None:
    outline = Outline(full_page(tmp_path))
    ids = [attributes["id"] for _, attributes in outline.attributes if "id" in attributes]
    for tag, attributes in outline.attributes:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "a" and (attributes.get("href") or "").startswith("#"):
            assert str(attributes["href"])[1:] in ids
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"


def contrast(a: str, b: str) -> float:
    """Return WCAG's contrast of two colours."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out(theme: int) -> None:
    css = (ROOT / "dcgan_eval" / "report" / "templates" / "page.css").read_text()
    colours = dict(re.findall(r"--([\w]+): (#\w+)", css.split(":root")[1 + theme]))
    for background in ("bg", "panel"):
        for name in ("fg", "muted", "accent", "c0", "c1", "c2", "c3", "c4", "c5"):
            assert contrast(colours[name], colours[background]) >= 4.5, (name, background)  # WCAG AA for text


def test_what_records_say_is_escaped() -> None:
    path, record = RECORDS[0]
    nasty = replace(
        record,
        made={**record.made, "command": "<script>alert(1)</script>"},
        features={**record.features, "name": 'x"><img src=y onerror=z>'},
    )
    text = build_page([(path, nasty)])
    assert "<script" not in text
    assert "<img" not in text


def test_what_there_is_nothing_of_is_not_shown() -> None:
    text = build_page(RECORDS[:1])
    for word in ("Not shown", 'id="examples"', 'id="training"', 'id="samples"', "Encoders by protocols"):
        assert word not in text
    assert text.count('<table class="bars">') == 1  # accuracy by class; a single score is no chart
    with pytest.raises(RecordError, match="needs records"):
        build_page([])


def test_a_single_point_is_no_chart() -> None:
    path, record = RECORDS[-1]
    assert "<polyline" in build_page([(path, record)])
    once = build_page([(path, replace(record, selection=record.selection[:1]))])
    assert "<polyline" not in once


def test_encoders_by_protocols_come_first() -> None:
    text = build_page(RECORDS)
    table = text[text.index("Encoders by protocols") : text.index("Table of results")]
    assert "scikit-learn digits, 1,297 / 500 images: accuracy" in table
    assert "digits_l2svm" not in table  # words first; ids stand beside them below
    assert "<code>digits_l2svm v1</code>" in text
    for _, record in RECORDS:
        assert f">{100 * record.score:.2f}</a>" in table


def of_data(name: str, seed: int, encoder: str = "a") -> tuple[Path, Record]:
    """A record of own data in a file that has another's name."""
    record = RECORDS[-1][1]
    data = {part: {**about, "name": name, "fingerprint": f"{seed:064d}"} for part, about in record.data.items()}
    features = {**record.features, "name": encoder}
    return Path(f"{seed}") / "r.json", replace(record, protocol="own_l2svm", data=data, features=features)


def test_own_data_sets_share_no_section() -> None:
    records = [
        of_data(name, seed, encoder) for name, seed in (("cats", 1), ("dogs", 2), ("cats", 3)) for encoder in "ab"
    ]
    text = build_page(records)
    outline = Outline(text)
    ids = [attributes["id"] for _, attributes in outline.attributes if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert text.count('class="group"') == 3
    headings = re.findall(r"<h2>(.*?) <small><code>(.*?)</code>", text)
    assert [name for title, name in headings if "dogs" in title] == [name for _, name in headings if "dogs" in name]
    assert len({title for title, _ in headings}) == len(headings) == 3
    links = re.findall(r'<li><a href="#([^"]+)">([^<]+)</a>', text)
    assert len({words for _, words in links}) == len(links)
    for title, name in headings:
        section = text[text.index(f"<h2>{title} ") :].split("</section>")[0]
        assert section.count("<polyline") == 4, name  # two curves and their legend


def test_every_record_is_charted_or_said_to_be_left_out() -> None:
    base = RECORDS[-1][1]
    kinds = {
        "whole": ("net", ["a", "b"], True, 9),
        "its part": ("net", ["a"], False, 9),
        "no layer is its all": ("own", ["output"], False, 9),
        "another such": ("other", ["output"], False, 9),
        "one value": ("quick", ["a"], True, 1),
    }
    records = [
        replace(base, features={**base.features, "name": n, "layers": x, "all_layers": a}, selection=base.selection[:k])
        for n, x, a, k in kinds.values()
    ]
    text = build_page([(Path(f"{i}.json"), r) for i, r in enumerate(records)])
    chart = text[text.index('<figure class="chart">') :].split("</figure>")[0]
    assert re.findall(r"</svg>([^<]+)</li>", chart) == ["net", "own (output)", "other (output)"]
    assert "Left out: net (a) (part of an encoder), quick (one value tried)." in chart
    scores = text[text.index("Test accuracy, %") :].split("</table>")[0]
    assert scores.count("<tr>") == len(records)  # the bars by layer are of one encoder alone


def test_numbers_of_neighbours_stand_apart() -> None:
    tried = [1, 5, 10, 20]
    selection = [{"k": k, "score": 0.5 + k / 100, "duality_gap": None} for k in tried]
    base = RECORDS[-1][1]
    record = replace(base, selection=selection, classifier={"name": "knn", "parameter": "k", "value": 5})
    text = build_page([(Path("r.json"), record)])
    xs = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', text)]
    widths = np.diff(xs) / (xs[-1] - xs[0])
    np.testing.assert_allclose(widths, np.diff(np.log(tried)) / np.log(20), atol=0.01)  # pixels, rounded to 0.1
    assert re.findall(r'y="226" text-anchor="middle">([^<]+)<', text) == ["1", "2", "5", "10", "20"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((1e-4, 1e4), ["1e-4", "1e-3", "1e-2", "1e-1", "1", "10", "100", "1e3", "1e4"]),
        ((0.02, 0.1), ["2e-2", "5e-2", "1e-1"]),
        ((3, 4), ["3", "3.5", "4"]),
    ],
)
def test_a_logarithmic_axis_has_ticks_in_any_range(values: tuple[float, ...], labels: list[str]) -> None:
    chart = line_chart("t", [Series("s", values, [1, 2])], x_label="x", y_label="y", log_x=True)
    assert [label for _, label in chart.x_ticks] == labels


def test_both_intervals_stand_in_the_table() -> None:
    path = ROOT / "benchmarks" / "results" / "svhn-small-dcgan2015.json"
    text = build_page([(path, load_record(path))])
    assert ">18.95–19.13<" in text
    low, high = re.findall(r'test images">([\d.]+)–([\d.]+)<', text)[0]
    assert 0.7 < (float(high) - float(low)) / 2 < 1.0


def test_logs_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"log\.csv or probe\.csv"):
        training_charts(tmp_path)
    (tmp_path / "log.csv").write_text("a,b\n1,x\n")
    with pytest.raises(RecordError, match="CSV of numbers"):
        training_charts(tmp_path)


def test_charts_put_numbers_where_they_belong() -> None:
    chart = line_chart("t", [Series("s", [1e-4, 1e-3, 1e-2], [10, 30, 20], 1)], x_label="x", y_label="y", log_x=True)
    _, points, chosen = chart.lines[0]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)  # pixels, rounded to 0.1
    assert points[1][1] < points[2][1] < points[0][1]  # higher values are higher up
    assert chosen == points[1]
    assert [label for _, label in chart.x_ticks] == ["1e-4", "1e-3", "1e-2"]
    assert nice_ticks(0.3, 9.7) == [2, 4, 6, 8]
    one = line_chart("t", [Series("s", [5], [float(3)])], x_label="", y_label="")
    assert all(np.isfinite(one.lines[0][1][0]))


def test_the_page_needs_no_torch() -> None:
    code = "import sys, dcgan_eval.report.page, dcgan_eval.report.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in a real browser of its own and return what it printed."""
    assert CHROMIUM is not None
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *("--enable-logging=stderr", f"--user-data-dir={page.parent / 'profile'}", *flags, page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser is installed: apt-get install chromium")
def test_a_browser_has_nothing_to_complain_about(tmp_path: Path) -> None:
    page, broken = tmp_path / "page.html", tmp_path / "broken.html"
    page.write_text(full_page(tmp_path))
    broken.write_text("<p>control</p><script>console.error('seen'); nothing()</script>")
    assert "CONSOLE" in browse(broken, "--dump-dom").stderr  # what follows would notice
    done = browse(page, "--dump-dom")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert done.stdout.count("<polyline") == page.read_text().count("<polyline")
    pictures = {}
    for name, theme, size in (("light", 1, "1280,2000"), ("dark", 0, "1280,2000"), ("phone", 1, "390,2000")):
        shot = tmp_path / f"{name}.png"
        browse(page, f"--screenshot={shot}", f"--window-size={size}", f"--blink-settings=preferredColorScheme={theme}")
        pictures[name] = np.asarray(Image.open(shot).convert("L"), float)
    assert pictures["light"].mean() > 200 > 100 > pictures["dark"].mean()
    assert np.ptp(pictures["phone"][:, -8:]) < 40  # nothing but background and rules at the right edge of a phone
