"""The page: what stands on it, what it must not do, and how a real browser shows it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from browser import CHROMIUM, open_browser
from comparisons import METRIC, comparison, trial
from orchestrator.cli.main import app
from orchestrator.errors import RunNotFoundError, TrackingError
from orchestrator.evaluation.comparison import COMPARISON_FILE, ObjectiveEntry
from orchestrator.evaluation.predictions import nearest_file, predictions_file
from orchestrator.evaluation.verdict import find_verdict
from orchestrator.report import contact_sheet
from orchestrator.report.charts import draw_cost, draw_curves
from orchestrator.report.contents import Contents, read_contents, read_verdict
from orchestrator.report.page import render_page
from orchestrator.report.tables import score_table
from orchestrator.report.write import REPORT_FILE, write_report
from orchestrator.spec.cluster import S3Spec
from orchestrator.spec.plan import PLAN_FILE
from orchestrator.storage.store import open_store
from report_example import KNOWN_SHAPES, write_example

HOSTILE = '<script>alert("1")</script>{{ 7 * 7 }}'


class Text(HTMLParser):
    """What a reader sees, and the addresses that a page names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.scripts += tag == "script"
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.pictures.append(found["src"])

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def __contains__(self, text: str) -> bool:
        return text in re.sub(r"\s+", " ", " ".join(self.words))


def test_the_page_says_verdict_numbers_and_places(example: str, page_file: Path) -> None:
    contents, _ = write_report(example, S3Spec(), str(page_file))
    text = Text(page_file.read_text())
    verdict = contents.verdict
    assert verdict.sentence in text
    assert all(note in text for note in verdict.notes)
    assert {pair.num_rows for pair in verdict.pairs} == {40}
    for heading in (
        "What a budget buys",
        "Objectives by metrics",
        "Throughput and cost",
        "Data",
        "Test images",
        "Plan",
    ):
        assert heading in text
    assert "openai-vit-b32 (baseline)" in text
    assert "Baseline moved (not trained here, no part in the verdict): it moved." in text
    assert "Untuned (nothing was searched): catlip." in text
    assert "too (mean): clip 3.4 %, siglip 3.4 %." in text
    assert "stopped: below the median of its rung" in text
    assert "38,397" in text  # of the ledger
    assert "9 cooldowns" in text
    assert "example-clip-0-cooldown-300" in text
    assert "http://mlflow.example:5000/#/runs/clip0" in text.links


def test_points_of_cooldowns_are_filled_and_joined_and_those_in_mid_schedule_stand_apart(example: str) -> None:
    contents = read_contents(example, S3Spec())
    whole = contents.comparison
    without = whole.model_copy(update={"trials": tuple(one for one in whole.trials if one.phase != "cooldown")})
    found = []
    for made in (whole, without):
        (drawing,) = draw_curves(made, contents.replicates)[0].drawings
        points = re.findall(r'<path aria-label="[^"]*" role="graphics-symbol" [^>]*fill="([^"]*)"', drawing)
        lines = re.findall(r'aria-roledescription="line mark" d="([^"]*)"', drawing)
        found.append((points.count("var(--paper)"), len(points), sorted({line.count("L") for line in lines})))
    # Of each objective: three points in mid-schedule, and its end; with a cooldown one more that has ended.
    assert found == [(9, 15, [1]), (9, 12, [3])]
    (of_cost,) = draw_cost(whole, contents.replicates).drawings[:1]
    assert "cooldowns" in of_cost
    assert "search: " in draw_cost(whole, contents.replicates).description
    assert "cooldowns" not in draw_cost(without, contents.replicates).drawings[0]


def test_pictures_come_with_captions_and_what_each_objective_took_them_for(example: str) -> None:
    sheet = read_contents(example, S3Spec()).sheet
    assert sheet is not None
    assert (sheet.probe, len(sheet.images)) == ("linear_probe", 12)
    for place, image in enumerate(sheet.images):
        assert image.picture.startswith("data:image/jpeg;base64,")
        assert image.caption
        assert [guess.objective for guess in image.guesses] == ["clip", "siglip", "catlip"]
        assert all(guess.num_replicates == 3 for guess in image.guesses)
        assert all(guess.is_right == (guess.label == image.label) for guess in image.guesses)
        number = sum(guess.num_right for guess in image.guesses)
        assert (0 < number < 9) == (place < sheet.num_divided)


def test_pictures_come_with_concepts_and_with_what_is_nearest(example: str) -> None:
    contents = read_contents(example, S3Spec())
    assert contents.sheet is not None
    images = contents.sheet.images
    assert {name for image in images for name in image.concepts} <= set(KNOWN_SHAPES)
    assert any(image.concepts for image in images)
    assert all(name in image.caption for image in images for name in image.concepts)
    for image in images:
        clip, siglip, catlip = image.neighbours
        assert (clip.caption, clip.is_own) == (image.caption, True)
        assert siglip.caption
        assert not siglip.is_own or siglip.caption == image.caption
        assert catlip.caption == ""
        assert len({one.picture for one in image.neighbours}) == 1  # all have the image of the row behind it
        assert clip.picture.startswith("data:image/jpeg;base64,")
    page = render_page(contents)
    assert f"<bdi>{images[0].caption}</bdi>" in page, "what runs from right to left turns no mark behind it"
    text = Text(page)
    assert "concepts" in text
    assert "embeds no captions" in text
    assert len(text.pictures) == len(images) * (1 + len(contents.comparison.objectives))


def test_a_caption_that_would_fill_a_page_is_cut(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_contents(example, S3Spec()).sheet
    monkeypatch.setattr(contact_sheet, "_MOST_CHARACTERS", 4)
    cut = read_contents(example, S3Spec()).sheet
    assert whole is not None
    assert cut is not None
    for before, after in zip(whole.images, cut.images, strict=True):
        assert (before.caption[:3] + "…", before.concepts) == (after.caption, after.concepts)
        assert [one.is_own for one in before.neighbours] == [one.is_own for one in after.neighbours]
        assert all(len(text) <= 4 for text in (after.label, *(one.caption for one in after.neighbours)))


def test_scores_are_told_apart_by_what_the_vocabulary_holds(example: str) -> None:
    contents = read_contents(example, S3Spec())
    found = score_table(contents.comparison, contents.replicates)
    rows = {row.words: row.cells for row in found.split}
    assert not [row for row in (*found.main, *found.rest) if "vocabulary" in row.metric]
    low, mean, high = (
        np.mean([run.scores[f"eval/scenes-eval/linear_probe/shape/accuracy{part}"] for run in contents.replicates[:3]])
        for part in ("_in_vocabulary", "", "_outside_vocabulary")
    )
    assert min(low, high) < mean < max(low, high)
    assert rows["linear probe, shape: accuracy in vocabulary"][0].mean == f"{100 * low:.1f} %"
    assert rows["linear probe, shape: accuracy outside vocabulary"][0].mean == f"{100 * high:.1f} %"
    assert "Classes that the concept vocabulary holds" in Text(render_page(contents))


def test_metrics_are_sorted_by_their_numbers(example: str) -> None:
    contents = read_contents(example, S3Spec())
    recalls = [f"eval/scenes-eval/retrieval/image_to_text/recall_at_{k}" for k in (10, 5, 1)]
    replicates = [
        run.model_copy(update={"scores": {**run.scores, **dict.fromkeys(recalls, 0.5)}}) for run in contents.replicates
    ]
    found = score_table(contents.comparison, replicates)
    names = [row.metric for row in (*found.main, *found.rest)]
    assert [name for name in names if name in recalls] == recalls[::-1]


@pytest.mark.parametrize("change", ["target gone", "fewer classes"])
def test_a_set_that_asks_for_something_else_costs_the_pictures_alone(tmp_path: Path, change: str) -> None:
    uri = write_example(tmp_path)
    asked = tmp_path / "scenes/eval/targets.json"
    content = json.loads(asked.read_text())
    sheet = read_contents(uri, S3Spec()).sheet
    assert sheet is not None
    own = content["targets"].pop(sheet.target)
    said = rf"asks for .*, where the runs predicted '{sheet.target}'"
    if change == "fewer classes":
        content["targets"][sheet.target] = {**own, "classes": own["classes"][:2], "names": {}, "hypernyms": {}}
        said = rf"'{sheet.target}' of .*/eval has 2 classes, where the runs predicted \d+ or more"
    asked.write_text(json.dumps(content))
    contents, _ = write_report(uri, S3Spec())
    assert contents.sheet is None
    assert re.search(said, contents.without_sheet)
    assert contents.verdict.pairs[0].num_rows == 40
    assert "No pictures: " in Text((tmp_path / "comparison" / REPORT_FILE).read_text())


def test_a_caption_that_a_set_has_no_more_is_not_shown(tmp_path: Path) -> None:
    uri = write_example(tmp_path)
    for number in range(3):
        plan = tmp_path / f"example-catlip-{number}/{PLAN_FILE}"
        content = json.loads(plan.read_text())
        content["evaluation"]["caption_fields"] = []
        plan.write_text(json.dumps(content))
    sheet = read_contents(uri, S3Spec()).sheet
    assert sheet is not None
    assert {one.caption for image in sheet.images for one in image.neighbours} == {""}


def test_damaged_predictions_cost_their_pairs_the_rows(tmp_path: Path) -> None:
    uri = write_example(tmp_path)
    file = tmp_path / "example-catlip-1" / predictions_file(600, "raw")
    file.write_bytes(file.read_bytes()[:400])
    contents, _ = write_report(uri, S3Spec())
    damaged = f"{file} is damaged: "
    assert contents.without_sheet.startswith(damaged)
    (note,) = (note for note in contents.verdict.notes if damaged in note)
    assert note in Text((tmp_path / "comparison" / REPORT_FILE).read_text())
    num_rows = {frozenset((pair.ahead, pair.behind)): pair.num_rows for pair in contents.verdict.pairs}
    assert [number for pair, number in num_rows.items() if "catlip" in pair] == [0, 0]
    assert num_rows[frozenset(("clip", "siglip"))] == 40
    assert all(pair.difference is not None for pair in contents.verdict.pairs)
    assert read_verdict(uri, S3Spec())[1] == contents.verdict


def test_damaged_neighbours_cost_the_pictures_alone(tmp_path: Path) -> None:
    uri = write_example(tmp_path)
    file = tmp_path / "example-clip-0" / nearest_file(600, "raw")
    file.write_bytes(b"no table")
    contents = read_contents(uri, S3Spec())
    assert contents.without_sheet.startswith(f"{file} is damaged: ")
    assert all(pair.num_rows == 40 for pair in contents.verdict.pairs)


def test_a_comparison_that_goes_on_has_a_page(page_file: Path) -> None:
    made = comparison({"clip": [0.5], "catlip": [0.6]})
    made = made.model_copy(update={"trials": (*made.trials, trial("clip", 1, None, status="running"))})
    folder = page_file.parent
    open_store(str(folder)).write_bytes(COMPARISON_FILE, made.model_dump_json().encode())
    contents, _ = write_report(str(folder), S3Spec())
    text = Text((folder / REPORT_FILE).read_text())
    assert "No verdict yet: 1 of 3 replicates have not ended" in text
    assert "No pictures:" in text
    assert contents.without_sheet


def test_whatever_is_interpolated_is_escaped_and_nothing_is_fetched() -> None:
    made = comparison({"clip": [0.5, 0.6, 0.7], "catlip": [0.6, 0.7, 0.9]})
    objectives = (ObjectiveEntry(label="clip", tuned=True, chosen={HOSTILE: HOSTILE}), made.objectives[1])
    lost = trial("clip", 4, None, status="failed", reason=HOSTILE, run=HOSTILE, checkpoint_uri=HOSTILE)
    made = made.model_copy(
        update={
            "name": HOSTILE,
            "budget": HOSTILE,
            "objectives": objectives,
            "trials": (*made.trials, lost, trial("clip", 5, None, scores={f"eval/s/p/{HOSTILE[:7]}/accuracy": 0.5})),
            "tracking_uri": "javascript:alert(1)",
            "mlflow_run_id": HOSTILE,
            "plan": {HOSTILE: HOSTILE},
        }
    )
    page = render_page(Contents(made, find_verdict(made, {}), None, HOSTILE))
    text = Text(page)
    assert "<script>alert" not in page
    assert "49" not in re.findall(r"\d+", re.sub(r"<svg.*?</svg>|<style.*?</style>", "", page, flags=re.S))
    assert text.scripts == 1  # the page's own
    assert text.links == []
    assert HOSTILE in text
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+", re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)))
    assert addresses == set()


def test_labels_in_charts_are_escaped(example: str) -> None:
    contents = read_contents(example, S3Spec())
    text = contents.comparison.model_dump_json().replace('"clip"', json.dumps("<b>&clip"))
    made = type(contents.comparison).model_validate_json(text)
    page = render_page(Contents(made, find_verdict(made, {}), None, ""))
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;clip" in page


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match=r"holds no comparison\.json; a job of kind 'compare' writes it"):
        write_report(str(tmp_path), S3Spec())
    (tmp_path / COMPARISON_FILE).write_text('{"name": 1}')
    with pytest.raises(TrackingError, match="is no comparison that this version can read"):
        write_report(str(tmp_path), S3Spec())


def test_the_command_prints_the_verdict(tmp_path: Path) -> None:
    made = comparison({"clip": [0.5, 0.6], "catlip": [0.6, 0.7]})
    (tmp_path / COMPARISON_FILE).write_text(made.model_dump_json())
    output = tmp_path / "page" / "here.html"
    output.parent.mkdir()
    shown = CliRunner().invoke(app, ["report", f"{tmp_path}/", "-o", str(output)], env={"COLUMNS": "300"})
    assert shown.exit_code == 0, shown.output
    assert "No verdict: 2 replicates show a spread only" in shown.stdout
    assert METRIC.split("/")[1] in shown.stdout
    assert output.exists()


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path (Debian: chromium)")
def test_a_browser_shows_it_without_overflow_or_error(example: str, page_file: Path) -> None:
    write_report(example, S3Spec(), str(page_file))
    with open_browser(page_file.parent / "profile") as page:
        for width in (1280, 390):
            for dark in (False, True):
                page.open(page_file, width, dark=dark)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.errors() == []
                assert page.requests() == [page_file.as_uri()]
                paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
                page.evaluate("document.getElementById('theme').click()")
                assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
        pictures = page.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert pictures == [144, 48, 48, 48] * 12


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the path (Debian: chromium)")
def test_words_without_a_space_stay_within_the_page(example: str, page_file: Path) -> None:
    contents = read_contents(example, S3Spec())
    assert contents.sheet is not None
    word = "W" * 240
    images = tuple(
        replace(
            image,
            caption=word,
            label=word,
            concepts=(word,),
            guesses=tuple(replace(one, label=word) for one in image.guesses),
            neighbours=tuple(replace(one, caption=word) for one in image.neighbours),
        )
        for image in contents.sheet.images
    )
    page_file.write_text(render_page(replace(contents, sheet=replace(contents.sheet, images=images))))
    with open_browser(page_file.parent / "profile") as page:
        for width in (1280, 390):
            page.open(page_file, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
