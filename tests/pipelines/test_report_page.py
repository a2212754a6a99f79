"""The page: safe with hostile names, bounded in size, the same bytes, and quiet in a real browser."""

import dataclasses
import hashlib
import html
import json
import re
import shlex
import tracemalloc

import numpy as np
import pytest
from browser import dump_dom
from pages import HOSTILE, assert_sound
from PIL import Image
from reporting import LAYERS, build_of, document_of, random_record, stats_of, to_annotations

from maskmill.pipelines.measuring.overlap_stats import fold_overlaps
from maskmill.pipelines.measuring.overlaps import BUDGETS, ImageOverlaps, LayerOverlaps
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.report.document import make_document
from maskmill.pipelines.report.ledger import read_ledger
from maskmill.pipelines.report.markdown import to_markdown
from maskmill.pipelines.report.model import Document, Interval, LedgerExample, LedgerRow, SlowImage, Stage, Throughput
from maskmill.pipelines.report.page import PictureKey, natural, render_page
from maskmill.pipelines.report.page_figures import draw_figures
from maskmill.pipelines.report.templating import clean
from maskmill.pipelines.report.thumbnails import HIT, MISS, Thumbnail, draw_match, encode_within
from maskmill.pipelines.report.write import to_bytes
from maskmill.schemas import rle
from maskmill.schemas.manifest import FAILURES, Shard
from maskmill.schemas.mask import Layer, MaskSet
from maskmill.schemas.stats import IOU_UNIT


def hostile_document() -> Document:
    """A report in which every text that a data set can choose is hostile."""
    layers = tuple(Layer(f"{text[:300]}{i}", f"g{i % 2}", {"note": text}) for i, text in enumerate(HOSTILE[:3]))
    examples = [random_record(i)[0] for i in range(len(HOSTILE) * 2)]
    examples = [type(e)(**{**vars(e), "filename": f"{HOSTILE[i % len(HOSTILE)]}{i}"}) for i, e in enumerate(examples)]
    stats = stats_of(examples, layers)
    failures = [LedgerRow("failed", text[:50], text[:50], 3, [LedgerExample(text, text)] * 5) for text in HOSTILE]
    build = build_of(
        layers,
        written=len(examples),
        dataset=HOSTILE[0],
        split=HOSTILE[1],
        config={text[:40]: [text, text] for text in HOSTILE},
        categories={str(i): text for i, text in enumerate((*HOSTILE, *HOSTILE))},
        labels=HOSTILE[1],
        decoder={"name": HOSTILE[0], "reencoded": {HOSTILE[1]: 3}},
        versions={HOSTILE[2]: HOSTILE[0]},
        shards=[Shard(HOSTILE[0], 1, 5, "0" * 64, "0" * 8)],
    )
    times = Throughput(
        [Stage(HOSTILE[0], 1, 5, 5, {"1": 1}, 1.0, 1.0, 1.0, 1.0)], [SlowImage(text, 1.0) for text in HOSTILE], None
    )
    return make_document(build, stats, failures, times)


def test_hostile_names_stay_text():
    document = hostile_document()
    picture = Thumbnail("data:image/jpeg;base64,AAAA", 10, 5)
    page = render_page(
        document, {PictureKey(x.layer, e.id): picture for x in document.examples.by_layer for e in x.images}
    )
    assert_sound(page)
    text = page.decode()
    assert "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "$^$" in text
    shown = html.unescape(re.search(r"<pre><code>(.*?)</code></pre>", text, re.DOTALL)[1])
    assert len(shlex.split(shown)) == 10  # whatever a layer is called, it stays one word of the command
    assert "x" * 400 not in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", text)
    assert json.loads(to_bytes(document))["build"]["dataset"] == HOSTILE[0]


@pytest.mark.timeout(600)
def test_hostile_names_run_nothing_and_ask_for_nothing_in_a_browser(tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(render_page(hostile_document(), {}))
    dom, requests = dump_dom(path)
    assert "Definitions" in dom
    assert "owned" not in re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1].replace("document.title='owned'", "")
    assert [r for r in requests if "report.html" not in r and "favicon" not in r] == []
    # the browser that finds nothing here does find a page that misbehaves
    page = "<title>a</title><script>document.title='owned'</script><img src='asked.png'>"
    path.write_text(page)
    dom, requests = dump_dom(path)
    assert "<title>owned</title>" in dom
    assert any("asked.png" in r for r in requests)
    policy = re.search(rb"<meta http-equiv[^>]*>", render_page(hostile_document(), {}))[0].decode()
    path.write_text(policy + page)
    dom, requests = dump_dom(path)
    assert "<title>a</title>" in dom
    assert not any("GET /asked.png" in r for r in requests)


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("plain", 80, "plain"),
        ("a\u202eb", 80, "a\ufffdb"),
        ("a\nb\x00", 80, "a\ufffdb\ufffd"),
        ("\udcff", 80, "\ufffd"),
        ("0123456789", 6, "0123…9"),
        ("family \U0001f468\u200d\U0001f469", 80, "family \U0001f468\u200d\U0001f469"),
    ],
)
def test_clean_shows_what_is_harmless(text, limit, shown):
    assert clean(text, limit) == shown
    assert len(clean(text, limit)) <= limit


def test_the_same_numbers_are_the_same_bytes():
    first, second = hostile_document(), hostile_document()
    assert to_bytes(first) == to_bytes(second)
    assert render_page(first, {}) == render_page(second, {})


def test_a_hundred_thousand_failures(tmp_path):
    reasons = ("truncated", "not_found", "worker_crash")
    with open(tmp_path / FAILURES, "w") as file:
        for i in range(100_000):
            row = {"id": f"{i:06d}" + "y" * 100, "outcome": "failed", "reason": reasons[i % 3], "stage": "decode"}
            file.write(json.dumps({**row, "message": "m" * 300, "attempts": 1}) + "\n")
    tracemalloc.start()
    ledger = read_ledger(str(tmp_path))
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()
    assert [row.count for row in ledger] == [33334, 33333, 33333]
    assert [e.id[:6] for e in ledger[0].examples] == ["000000", "000003", "000006", "000009", "000012"]
    counts = {"inputs": 100_000, "written": 0, "failed": 100_000, "skipped": 0}
    page = render_page(document_of(stats_of([]), failures=ledger, counts=counts), {})
    assert_sound(page)
    assert b"33,334" in page


def synthetic(images: int, seed: int) -> ReportStats:
    """Statistics of made-up images, as rows and overlaps."""
    rng = np.random.default_rng(seed)
    stats = ReportStats.zero(1, 1)
    for start in range(0, images, 100):
        rows, overlaps = [], []
        for i in range(start, min(start + 100, images)):
            n = int(rng.integers(0, 12))
            best = (rng.random(n) * IOU_UNIT).astype(int)
            rows.append(
                {
                    "id": f"folder/{i:09d}.jpg",
                    "height": 480,
                    "width": 640,
                    "instances": n,
                    "crowds": 0,
                    "masks": [int(rng.integers(1, 200))],
                    "covered_px": [480 * 640],
                    "iou_units": [int(best.sum())],
                    "first_units": [int(best.sum())],
                    "drawn_units": [int(best.sum())],
                    "sha256": hashlib.sha256(b"%d" % i).hexdigest(),
                }
            )
            kept = [int(best.sum())] * len(BUDGETS)
            layer = LayerOverlaps(480 * 640, [1] * 24, 3, 0, 0, kept, kept)
            area, category = rng.integers(1, 90_000, n).tolist(), rng.integers(1, 91, n).tolist()
            overlaps.append(ImageOverlaps(area, category, [best.tolist()], [layer], [[n] * 12] * 12))
        stats.add_rows(rows)
        stats.add_overlaps(fold_overlaps(overlaps))
    return stats


def test_memory_and_size_do_not_grow_with_the_data_set(monkeypatch):
    monkeypatch.setattr("maskmill.pipelines.measuring.repeats.KEPT", 100)  # a bound that the smaller set reaches too
    sizes, peaks = {}, {}
    for images in (200, 20_000):
        tracemalloc.start()
        stats = synthetic(images, 1)
        peaks[images] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        document = document_of(stats, LAYERS[:1])
        sizes[images] = (len(to_bytes(document)), len(render_page(document, {})))
    assert sizes[20_000][0] < 1.25 * sizes[200][0]
    assert sizes[20_000][1] < 1.10 * sizes[200][1]
    assert peaks[20_000] < 1.5 * peaks[200]


def test_many_layers_and_categories_are_cut_on_the_page_only():
    layers = tuple(Layer(f"g-{i}", "g", {}) for i in range(60))
    example = next(e for e in (random_record(i, layers=60)[0] for i in range(9)) if (~e.annotations.is_crowd).any())
    stats = stats_of([example], layers)
    for table in (stats.sums.overlaps, *stats.sums.overlaps.series):
        table.categories.update({str(i): 1 for i in range(5000)})
    document = document_of(stats, layers)
    page = render_page(document, {})
    assert_sound(page)
    assert len(page) < 1_500_000
    assert len(document.categories) >= 5000
    assert b"rarer categories are in report.json only" in page


def test_thumbnails_shrink_until_they_fit():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (400, 600, 3), np.uint8))

    def draw(longer_px):
        panel = noise.resize((longer_px, longer_px * 2 // 3))
        return [panel, panel]

    panels = {str(i): draw for i in range(12)}
    widths = []
    for budget in (3_000_000, 200_000, 75_000, 100):
        encoded = encode_within(panels, budget)
        assert sum(len(e.url) for e in encoded.values()) <= budget
        widths.append(encoded["0"].width if encoded else 0)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[2] > widths[3] == 0


def test_the_match_shows_hits_and_misses_where_they_are():
    example, _, _ = random_record(1, side=(60, 80))
    truth, mask = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    truth[10:50, 10:70] = True
    mask[10:50, 40:80] = True
    masks = MaskSet.unranked([rle.encode_mask(mask)], [mask.sum()])
    _, right = draw_match(example, to_annotations([truth], [1], [0]), [masks], 160)
    pixels = np.asarray(right, int)

    def nearest(y, x):
        """Which of three colours prevails around a place."""
        around = pixels[2 * y - 8 : 2 * y + 8, 2 * x - 8 : 2 * x + 8].reshape(-1, 3).mean(axis=0)
        return min(("hit", HIT), ("miss", MISS), ("grey", (150, 150, 150)), key=lambda c: np.abs(around - c[1]).sum())[
            0
        ]

    assert nearest(30, 55) == "hit"
    assert nearest(30, 25) == "miss"
    assert nearest(5, 5) == "grey"


def test_names_sort_as_people_count():
    assert sorted(["fh-1000", "fh-500", "mcg-16", "fh-1500", "a"], key=natural) == [
        "a",
        "fh-500",
        "fh-1000",
        "fh-1500",
        "mcg-16",
    ]
    assert natural("²") < natural("³")


def test_the_page_leads_from_every_layer_to_its_pictures():
    document = document_of(stats_of([random_record(i)[0] for i in range(30)]))
    tags = assert_sound(render_page(document, {}))
    links = [value for name, value in tags.attributes if name == "href"]
    assert {f"#layer-{i}" for i in range(len(LAYERS))} <= set(links)
    assert {link[1:] for link in links} <= set(tags.ids)


def test_bars_and_their_intervals_end_where_the_numbers_do():
    """On one scale, which the longest interval fills."""
    document = document_of(stats_of([random_record(i)[0] for i in range(30)]))
    page = render_page(document, {}).decode()
    found = re.findall(r'<i style="width:([\d.]+)%"></i><u style="left:([\d.]+)%;width:([\d.]+)%"></u>', page)
    ranked = document.ranking.layers
    end = max(layer.interval.value[1] for layer in ranked)
    assert len(found) == len(ranked)
    for (bar, left, width), layer in zip(found, ranked, strict=True):
        low, high = layer.interval.value
        drawn = [float(bar), float(left), float(left) + float(width)]
        assert drawn == pytest.approx([100 * value / end for value in (layer.abo.value, low, high)], abs=0.02)


def test_a_winner_that_was_learnt_from_labels_says_so_and_which_needed_none():
    stats = stats_of([random_record(i)[0] for i in range(30)])
    order = [layer.name for layer in document_of(stats).ranking.layers]

    def shown(**labels: object) -> tuple[str, str]:
        provenance = {name: {"ranker": {"labels": labels.get(f"of_{order.index(name)}", [])}} for name in order}
        layers = tuple(dataclasses.replace(layer, provenance=provenance[layer.name]) for layer in LAYERS)
        document = document_of(stats, layers)
        decision = render_page(document, {}).decode().split('<section id="decision">')[1].split("</section>")[0]
        return re.sub(r"<[^>]+>", "", decision), to_markdown(document)

    page, text = shown(of_0=["COCO <b>"], of_1=["COCO"])
    assert f"{order[0]} was learnt from labels (COCO &lt;b&gt;)" in page
    assert f"The best layer that needed none is {order[2]}, ABO 0." in page
    assert rf"learnt from labels** (COCO \<b\>); the best layer that needed none is {order[2]}" in text.replace(
        "\\-", "-"
    )
    page, text = shown(of_0=["COCO"], of_1=["COCO"], of_2="COCO")
    assert "learnt from labels (COCO)" in page
    assert "needed none" not in page + text
    page, text = shown(of_1=["COCO"])
    assert "was learnt from" not in page + text


def test_every_layer_that_used_labels_is_marked_on_the_first_screen():
    layers = (
        dataclasses.replace(LAYERS[0], provenance={"ranker": {"labels": ["COCO"]}}),
        LAYERS[1],
        Layer("gt", "gt", {}, disjoint=False),
    )
    document = document_of(stats_of([random_record(i)[0] for i in range(30)], layers), layers)
    decision = render_page(document, {}).decode().split('<section id="decision">')[1].split("</section>")[0]
    rows = [re.sub(r"<[^>]+>", "", row) for row in re.findall(r'<th scope="row">(.*?)</th>', decision)]
    assert sorted(rows) == ["a-1 learnt from labels", "a-2", "gt the labels themselves"]
    table = [line for line in to_markdown(document).splitlines() if line.startswith("|")]
    assert sum("(learnt from labels)" in line for line in table) == 1
    assert sum("(the labels themselves)" in line for line in table) == 1


def test_a_lead_names_the_layer_it_is_over_and_says_when_it_is_none():
    document = document_of(stats_of([random_record(i)[0] for i in range(60)]))
    first, second, third = document.ranking.layers
    apart = [
        dataclasses.replace(first, lead_interval=Interval((0.01, 0.03))),
        dataclasses.replace(second, lead_interval=Interval((-0.02, 0.03))),
        third,
    ]
    document = dataclasses.replace(document, ranking=dataclasses.replace(document.ranking, layers=apart))
    decision = render_page(document, {}).decode().split('<section id="decision">')[1].split("</section>")[0]
    found = re.findall(r"<tr><th scope=.row.>.*?</tr>", decision)
    rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in found]
    assert f"{first.lead.value:+.3f} over {second.name} +0.010 to +0.030" in rows[0]
    assert f"level with {third.name} -0.020 to +0.030" in rows[1]
    assert "over" not in rows[2]
    assert "level" not in rows[0] + rows[2]
    assert "these images do not tell the two apart" not in decision.split("</p>")[0]
    assert f"ahead of {second.name}, {first.lead.value:+.3f}" in to_markdown(document)
    apart[0] = dataclasses.replace(first, lead_interval=Interval((-0.01, 0.03)))
    document = dataclasses.replace(document, ranking=dataclasses.replace(document.ranking, layers=apart))
    assert "these images do not tell the two apart" in render_page(document, {}).decode().split("<table")[0]
    assert "level with" in to_markdown(document)


def test_the_first_line_names_the_checks_that_need_a_look():
    document = document_of(stats_of([random_record(i)[0] for i in range(30)]))
    checks = [dataclasses.replace(check, state="warn") for check in document.checks]
    head = render_page(dataclasses.replace(document, checks=checks, verdict="warn"), {}).decode().split("<main>")[0]
    assert all(html.escape(check.name) in head for check in checks)


def test_the_first_line_names_the_layers_that_a_doubt_is_about():
    document = document_of(stats_of([random_record(i)[0] for i in range(30)]))
    (check,) = (check for check in document.checks if check.name == "Empty layers")
    without = [layer.name for layer in document.layers if layer.images_without]
    assert check.layers == without != []
    head = re.sub(r"<[^>]+>", "", render_page(document, {}).decode().split("<main>")[0])
    assert f"Empty layers: {', '.join(without)}" in head
    many = dataclasses.replace(check, layers=[f"x-{i}" for i in range(9)])
    head = render_page(dataclasses.replace(document, checks=[many]), {}).decode().split("<main>")[0]
    assert "x-3</bdi> and 5 more" in head


def test_figures_show_what_differs_in_colours_of_their_own():
    layers = (Layer("fh-1", "fh", {}), Layer("gt", "gt", {}), Layer("grid-2", "grid", {}))
    document = document_of(stats_of([random_record(i)[0] for i in range(30)], layers), layers)
    figures = draw_figures(document)
    assert "var(--truth)" in figures["count"]
    assert "var(--truth)" not in figures["kept"]
    assert "fh-*" not in figures["recall"]
    highest = max(k.drawn.value for x in document.layers if x.generator != "gt" for k in x.kept)
    axis = max(float(v) for v in re.findall(r'text-anchor="end">([\d.]+)<', figures["kept"]))
    assert highest <= axis < 1.7 * highest
    alike = dataclasses.replace(document.layers[0], masks_hist=[0, 30, *[0] * 16])
    figures = draw_figures(dataclasses.replace(document, layers=[alike, *document.layers[1:]]))
    assert figures["count_constant"] == "fh-1 (1 mask)"
    assert ">fh-1<" not in figures["count"]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_means_nothing_by_a_name(text):
    layers = (Layer(text[:60] or "x", "g", {}),)
    document = document_of(stats_of([random_record(i, layers=1)[0] for i in range(4)], layers), layers, dataset=text)
    lines = to_markdown(document).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 3
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {11}
    shown = "\n".join(lines[: lines.index("```")])
    assert not re.search(r"(?<!\\)[<>\[`]", shown.replace("`" + "0" * 12 + "`", ""))
    assert lines.count("```") == 2
