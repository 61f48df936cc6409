"""The page shows exactly what the result holds, whatever the result holds."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from io import StringIO
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from ropo.comparison.frontier.curves import Draws
from ropo.comparison.frontier.equal_gain import equal_gains
from ropo.comparison.frontier.quantities import GAINS, series_of
from ropo.comparison.results import ComparisonResult, EqualGain, read_comparison
from ropo.comparison.summary import methods_of, over_seeds
from ropo.core.errors import UserError
from ropo.report import render_page, write_page
from ropo.report.console import print_comparison
from ropo.report.equal_gain import headlines
from ropo.report.figures.style import COLOURS, GREY
from ropo.report.figures.svg import frontier_svg
from ropo.report.figures.training import smoothed
from ropo.report.tables import summary_rows
from ropo.report.text import number, setting, visible
from tests.comparison.made_paths import answers, run_path
from tests.report.made import COMMIT, DIVERGED, FAILED, HOSTILE, Page, changed, hostile_result, make_result


@pytest.fixture(scope="module")
def result() -> ComparisonResult:
    return make_result()


@pytest.fixture(scope="module")
def page(result) -> Page:
    return Page(render_page(result))


def without(result: ComparisonResult, name: str) -> ComparisonResult:
    """Return a result without one run."""
    suites = []
    for suite in result.suites:
        models = [model for model in suite.result.models if model.name != name]
        suites.append(suite.model_copy(update={"result": suite.result.model_copy(update={"models": models})}))
    samples = [
        each.model_copy(update={"answers": {key: text for key, text in each.answers.items() if key != name}})
        for each in result.samples
    ]
    runs = [run for run in result.runs if run.name != name]
    return changed(result, runs=runs, suites=suites, samples=samples)


def test_every_number_is_the_whole_one_and_its_rounding(page):
    assert len(page.numbers) > 500
    for _, value, shown in page.numbers:
        known = int(value) if re.fullmatch(r"-?\d+", value) else float(value)
        assert shown in (number(known), setting(known), f"{number(100 * known)}\xa0%"), value


def test_the_tables_hold_what_the_suites_found_and_nothing_else(result, page):
    expected, seen = Counter(), Counter(each for _, *each in map(list, page.numbers) for each in each[:1])
    count = 0
    for suite in result.suites:
        for model in suite.result.models:
            for metric in (*model.metrics, *model.changes):
                numbers = [metric.value, metric.low, metric.high, getattr(metric, "p_value", None)]
                expected.update(repr(each) for each in numbers if each is not None)
                count += 1
    for run in result.runs:
        if run.diagnosis:
            summary = run.diagnosis.summary
            expected.update(map(repr, (summary.energy, summary.energy_change, summary.largest_cosine_change)))
        if run.record:
            expected.update(map(repr, run.record.metrics["monitor"].values()))
    assert expected["0.0421"] > 1  # the divergence of runs that were watched
    assert count > 300
    assert not expected - seen  # each stands there as often as in the result, or more often
    means = Counter()
    for data in ("one", "two"):
        for row in summary_rows(result, data, methods_of(result, data))[1]:
            for cell in row.cells:
                assert cell.estimate == over_seeds([metric for _, metric in cell.seeds])
                means.update(map(repr, (cell.estimate.value, cell.estimate.low, cell.estimate.high)))
                if cell.change is not None:
                    means.update(map(repr, (cell.change.value, cell.change.low, cell.change.high)))
                means.update(repr(metric.value) for _, metric in cell.seeds)
    for each in result.equal_gains:
        means.update([repr(each.level)])
        for found in (each.value, each.other, each.difference):
            means.update(map(repr, (found.value, found.low, found.high)))
            assert not Counter(repr(end) for end in (found.value, found.low) if end is not None) - seen
    few = {repr(each) for each in (0.000151, 1e-3, 1e-2, 2e-3, 4e-3, 10.0, 0.61, 0.5, 0.7)}
    strangers = {value for value in seen - expected - means if "." in value} - few
    assert not strangers


def test_rows_are_of_their_run(result, page):
    rows = {}
    for head, value, _ in page.numbers:
        rows.setdefault(head, set()).add(value)
    seen = 0
    for suite in result.suites:
        for model in suite.result.models:
            for metric in model.metrics:
                assert repr(metric.value) in rows[model.name], (model.name, metric.name)
                seen += 1
    assert seen > 150


def test_figures_hold_the_curves_pictures_and_layers(result, page):
    drawn = page.figures
    assert len(drawn) == 2 * 12
    checked = 0
    for key, data in (("d0", "one"), ("d1", "two")):
        for run in (run for run in result.runs if run.data == data and run.curves):
            assert [line["loss"] for line in run.curves][1] is None
            for name, chart in (("logps/chosen", "logps"), ("loss", "series")):
                values = [line[name] for line in run.curves]
                traces = [trace for view in drawn[f"{key}-{chart}"] for trace in view["data"]]
                assert any(trace["y"] == values and trace["x"] == [1, 2, 3] for trace in traces), (run.name, name)
            places = next(view["data"] for view in drawn[f"{key}-neurons"] if holds(view["data"][2], run.neurons.after))
            assert holds(places[1], run.neurons.before)
            changes = [layer.change.energy for layer in run.diagnosis.layers]
            energies = [layer.weight.energy for layer in run.diagnosis.layers]
            traces = [trace for view in drawn[f"{key}-energy"] for trace in view["data"]]
            assert any(trace["y"] == changes for trace in traces)
            assert any(trace["y"] == energies for trace in traces)
            counts = [trace["y"] for view in drawn[f"{key}-cosines"] for trace in view["data"]]
            assert run.cosines[0].after in counts
            assert run.cosines[0].before in counts
            checked += 1
    assert checked == 20


def holds(trace, points) -> bool:
    return list(zip(trace["x"], trace["y"], strict=True)) == [tuple(point) for point in points]


def test_the_frontier_is_the_metric_against_the_change(result, page):
    view = page.figures["d0-frontier"][0]
    assert "text · perplexity" in view["layout"]["xaxis"]["title"]["text"]
    suites = {suite.result.suite: suite.result for suite in result.suites if suite.data == "one"}
    points = {(trace["name"], trace["x"][0], trace["y"][0]) for trace in view["data"]}
    seen = 0
    for run in (run for run in result.runs if run.data == "one" and run.method in ("RoPO", "LoRA", "full")):
        x, y = (next(m for m in suites[name].models if m.name == run.name) for name in ("knowledge", "instructions"))
        assert (
            f"{run.method}, seed {run.seed}",
            x.change("text/perplexity").value,
            y.metric("passes").value,
        ) in points
        seen += 1
    assert seen == 9
    assert any(name == "reference" and x == 0 for name, x, _ in points)


def test_bold_is_the_best_complete_method(result, page):
    columns, rows = summary_rows(result, "one", methods_of(result, "one"))
    assert len(columns) == 8
    for place, column in enumerate(columns):
        cells = {row.method.method: row.cells[place] for row in rows}
        rivals = {name: cells[name].change.value for name in ("RoPO", "LoRA", "full")}
        best = {name for name, cell in cells.items() if cell.best}
        if column.better:
            assert best == {(max if column.better > 0 else min)(rivals, key=rivals.get)}
        else:
            assert not best
        assert not cells["hot"].best  # though its last seed finished
        assert not cells["reference"].best
    assert len(page.bold) == 2 * sum(column.better != 0 for column in columns)


def test_what_is_lost_is_shown_as_lost(page):
    assert page.text.count(DIVERGED) == 2 * 1 + 2 * 2  # once a data set for both seeds, and once a run
    assert page.text.count(FAILED) == 2 * 1 + 2 * 3
    assert "12 of them not finished" not in page.text
    assert "10 of them not finished" in page.text
    words = re.findall(r"\w+", page.text)
    assert "NaN" not in words
    assert "None" not in words
    assert "undefined" not in words


def test_every_number_has_its_command_seed_version_and_commit(result, page):
    targets = {attributes["id"] for _, attributes in page.elements if attributes.get("id")}
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert len(links) > 60
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    assert all(link.startswith("#") for link in links)
    for run in result.runs[1:]:
        assert f"ropo {' '.join(run.command)}" in page.text
        if run.diagnosis:
            assert f"ropo {' '.join(run.diagnosis_command)}" in page.text
    for suite in result.suites:
        for command in suite.commands.values():
            assert f"ropo {' '.join(command)}" in page.text
    assert "ropo compare recipe.yaml --output 'out dir'" in page.text
    finished = sum(run.status == "finished" for run in result.runs) - 2
    assert page.text.count(COMMIT) == 2 + len(result.suites) + 2 * finished
    assert page.text.count("torch ") >= 1 + len(result.suites) + finished


def test_the_navigation_has_every_section_and_every_figure_its_legend(page):
    places = [a["id"] for tag, a in page.elements if tag == "h2" and a.get("id")]
    links = [a["href"].removeprefix("#") for tag, a in page.elements if tag == "a" and a["href"].startswith("#")]
    titles = [tag for tag, _ in page.elements if tag == "h2"]
    assert len(places) == len(titles) == 2 * 10 + 2
    assert set(places) <= set(links)
    classes = [a.get("class") for _, a in page.elements]
    assert classes.count("legend") == classes.count("plot") == 2 * 12


def test_the_head_says_what_an_equal_gain_costs_and_what_is_behind_it(result, page):
    lines = headlines([each for each in result.equal_gains if each.data == "one"])
    assert len(lines) == 2  # a gain each
    assert all(line in page.text for line in lines)
    assert all(line.startswith("RoPO against LoRA at an equal gain in ") for line in lines)
    assert all(line.count("n = ") == line.count(", 3 seeds") == 3 for line in lines)  # costs
    assert page.text.index(lines[0]) < page.text.index("Each method's change from the untrained model")
    without_paths = Page(render_page(changed(result, paths=[], equal_gains=[])))
    assert "passes (instructions, " in without_paths.text
    assert "3 seeds)" in without_paths.text
    assert "at an equal gain" not in without_paths.text


def sparsely_sampled() -> list[EqualGain]:
    """Return equal gains of two methods whose best checkpoint, the second of three, answered no prompts."""
    before = answers([0.0], [10.0])

    def points(kl: float):
        sampled = [answers([0.0], [10.0 + number], [number * kl]) for number in (1, 2)]
        return [([1.0], [0.1], sampled[0]), ([4.0], [0.3], None), ([2.0], [0.2], sampled[1])]

    runs = [run_path(method, points(kl), reference=before) for method, kl in (("A", 0.1), ("B", 0.2))]
    return equal_gains(runs, "B", Draws(resamples=20))


def test_costs_of_different_gains_are_in_sentences_of_their_own():
    found = sparsely_sampled()
    whole = {each.cost: each for each in found if (each.gain, each.share) == ("loss", 1.0)}
    assert whole["kl"].level == whole["length"].level < whole["forgetting"].level
    text, of_answers = headlines(found)
    where = "all that both reach at the checkpoints where this was measured: "
    level = number(whole["forgetting"].level)
    assert text.startswith(f"A against B at an equal gain in DPO loss of {level}, {where}forgetting ")
    assert "KL" not in text
    assert f"DPO loss of {number(whole['kl'].level)}, {where}KL " in of_answers
    assert "; growth of answers " in of_answers


def test_the_table_of_equal_gains_says_all_that_is_behind_it():
    result = changed(make_result(data=("toy",)), equal_gains=sparsely_sampled())
    said = StringIO()
    print_comparison(result, Console(file=said, width=400))
    (line,) = [line for line in said.getvalue().splitlines() if "interval excludes 0; " in line]
    assert line.endswith("; 1 pairs, 1 windows, 1 prompts, 1 seed")


def test_where_only_pairs_were_scored_the_head_says_the_margins(result):
    def as_measured(suite):  # the untrained model has no accuracy, so nothing is a change from it
        models = [model.model_copy(update={"changes": []}) for model in suite.result.models]
        return suite.model_copy(update={"result": suite.result.model_copy(update={"models": models})})

    suites = [as_measured(each) for each in result.suites if each.result.suite == "preference"]
    page = Page(render_page(changed(result, paths=[], equal_gains=[], suites=suites)))
    start = page.text.index("margin on held-out pairs (preference, 0 before training): ")
    head = page.text[start:].partition("Each method's change from the untrained model")[0]
    assert head.count("3 seeds), ") >= 2
    assert all(side in ("above 0", "below 0", "not told from 0") for side in re.findall(r"seeds?\), ([a-z 0]+)", head))


def test_paths_are_drawn_point_by_point_and_hovering_names_run_and_step(result, page):
    views = page.figures["d0-path-forgetting"]
    assert [view["layout"]["xaxis"]["title"]["text"] for view in views] == [each.title for each in GAINS.values()]
    traces = {trace["name"]: trace for trace in views[1]["data"]}
    seen = 0
    for run in (each for each in result.paths if each.data == "one" and each.path is not None):
        trace = traces[f"{run.method} at {run.learning_rate:g}, seed {run.seed}"]
        for name, side in (("loss", "x"), ("forgetting", "y")):
            series = series_of(run.path, name)
            assert trace[side] == pytest.approx(series.means(np.ones((1, series.upper.shape[1])))[0].tolist())
        assert trace["text"][2] == f"{run.method} at {run.learning_rate:g}, seed {run.seed}, step 20"
        seen += 1
    assert seen == 2 * 2 * 3
    for method in ("RoPO", "LoRA"):
        assert {f"{method}, least cost", f"{method}, seeds", f"{method} at 0.001, mean of the seeds"} <= set(traces)
    assert "RoPO at 0.004" not in str(traces)
    assert "Left out, as not every seed finished and was measured: RoPO at 0.004." in page.text


def test_the_figure_is_an_svg_of_its_own(result):
    root = ElementTree.fromstring(frontier_svg(result))
    space = "{http://www.w3.org/2000/svg}"
    shown = [text.text for text in root.iter(f"{space}text")]
    assert {"RoPO", "LoRA", "gain in pass rate", "drop of the DPO loss, nats"} <= set(shown)
    lines = list(root.iter(f"{space}polyline"))
    assert len(lines) == 2 * 3 * 2 * (2 * (3 + 1) + 1)  # gains, costs, methods, rates with seeds and mean, least cost
    titles = [title.text for title in root.iter(f"{space}title")]
    assert "LoRA at 0.002, seed 1, step 20" in titles
    with pytest.raises(UserError, match="has no frontier"):
        frontier_svg(changed(result, paths=[]))
    with pytest.raises(UserError, match="no frontier of 'three'"):
        frontier_svg(result, "three")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '\x00\u202e&lt;"'])
def test_the_figure_shows_hostile_text_as_text(text):
    drawn = frontier_svg(hostile_result(text))
    root = ElementTree.fromstring(drawn)
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert visible(text) in [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_what_is_rounding_or_coincides_is_said_and_not_drawn(result):
    def still(run):
        if run.method != "RoPO" or run.diagnosis is None:
            return run
        change = run.diagnosis.layers[0].change.model_copy(update={"energy": -3e-9})
        layers = [layer.model_copy(update={"change": change}) for layer in run.diagnosis.layers]
        cosines = [each.model_copy(update={"after": each.before}) for each in run.cosines]
        return run.model_copy(
            update={"diagnosis": run.diagnosis.model_copy(update={"layers": layers}), "cosines": cosines}
        )

    page = Page(render_page(changed(result, runs=[still(run) for run in result.runs])))
    assert "RoPO: energy unchanged to rounding in all layers (largest relative change 3.00e−9); not drawn." in page.text
    assert "RoPO: cosines between neurons are distributed as before (at most 0 % of the pairs" in page.text
    for chart in ("energy", "cosines"):
        names = [trace["name"] for view in page.figures[f"d0-{chart}"] for trace in view["data"]]
        assert any(name.startswith("LoRA") for name in names)
        assert not any(name.startswith("RoPO") for name in names)
    assert "unchanged to rounding" not in Page(render_page(result)).text


def test_batch_noise_is_smoothed():
    values = [0.0, 1.0] * 16
    found = smoothed(values)
    assert len(found) == 32
    assert found[16] == pytest.approx(sum(values[14:19]) / 5)  # 32 values, five to a mean
    assert max(found[2:-2]) - min(found[2:-2]) == pytest.approx(0.2)
    assert smoothed([1.0, None, 3.0]) == [1.0, None, 3.0]
    assert smoothed([*values[:8], None, *values[9:]])[8] is None


def test_removing_a_run_leaves_the_rest(result, page):
    name = "one/LoRA/seed1"
    less = Page(render_page(without(result, name)))
    assert name in page.text
    assert name not in less.text
    rest = [each for each in less.numbers if each[0] != "" and "LoRA" not in each[0]]
    assert len(rest) > 400
    assert not Counter(rest) - Counter(page.numbers)
    gone = Counter(page.numbers) - Counter(less.numbers)
    assert all("LoRA" in head for head, *_ in gone if head), gone
    traces = [str(trace) for views in less.figures.values() for view in views for trace in view["data"]]
    before = [str(trace) for views in page.figures.values() for view in views for trace in view["data"]]
    new = Counter(traces) - Counter(before)
    assert all("'LoRA, mean" in trace for trace in new), new


def test_what_was_not_measured_is_said_and_nothing_is_made_up():
    bare = [
        run.model_copy(update={"diagnosis": None, "cosines": [], "neurons": None, "curves": []})
        for run in make_result().runs
    ]
    none = {"suites": [], "samples": [], "selections": [], "paths": [], "equal_gains": []}
    page = Page(render_page(changed(make_result(), runs=bare, notes=[], **none)))
    for sentence in ("Nothing was evaluated", "No run was diagnosed"):
        assert sentence in page.text
    assert not page.figures
    assert not [tag for tag, _ in page.elements if tag == "figure"]  # no empty card
    places = [a.get("id") or a.get("href") or "" for _, a in page.elements]
    assert any(place.endswith("-s-weights") for place in places)
    assert not [place for place in places if place.endswith("-s-samples")]  # neither a section nor a link to one
    empty = Page(render_page(changed(make_result(), runs=[], **none)))
    assert "There is no run" in empty.text


def test_nothing_is_loaded_and_only_our_scripts_may_run(page):
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert len(hashes) == 2
    assert "default-src 'none'" in policy
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    assert f"script-src {allowed};" in policy
    sources = [(tag, a.get("src") or a.get("href")) for tag, a in page.elements if a.get("src") or a.get("href")]
    assert {source for tag, source in sources if not source.startswith("#")} == {"data:,"}


@pytest.fixture(scope="module")
def tame() -> Page:
    return Page(render_page(hostile_result("tame")))


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:24]))
def test_hostile_text_is_only_text(text, tame):
    html = render_page(hostile_result(text))
    assert "\x00" not in html
    page = Page(html)  # whose parser asserts that every element closes
    shape = [(tag, sorted(attributes)) for tag, attributes in page.elements]
    assert shape == [(tag, sorted(attributes)) for tag, attributes in tame.elements]
    assert page.scripts == tame.scripts
    assert page.text.count(visible(text)) >= 10
    assert not set("\u202e\u2066\x00\x1b") & set(page.text)
    titles = str(
        [(view["layout"], [trace["name"] for trace in view["data"]]) for v in page.figures.values() for view in v]
    )
    assert "<" not in titles


def test_a_page_is_written_from_what_was_read(result, tmp_path):
    result.write(tmp_path)
    write_page(read_comparison(tmp_path), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_page(result)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["#ffffff", "#14171b"])
def test_colours_are_told_from_both_grounds(ground):
    for colour in (*COLOURS, GREY):
        dark, light = sorted((luminance(colour), luminance(ground)))
        assert (light + 0.05) / (dark + 0.05) >= 3, colour
    assert all(a != b for a, b in pairwise(COLOURS))
