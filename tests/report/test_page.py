"""The page in a real browser: what it shows is what the table says, and nothing of a record becomes part of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page

from splitlearn.report import Budgets, group_runs, write_report
from splitlearn.report.page import server_rows
from tests.report.browser import find_chromium, running_browser
from tests.report.written_runs import PHASES, summary, write_run, write_sweep

HOSTILE = "</script><script>window.harmed=1</script><img src=x onerror=window.harmed=1>\"'`{{ 7*7 }}%{x}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sweep(tmp_path_factory.mktemp("runs") / "sweep")
    write_report([folder], budgets=Budgets(max_client_gib=1.9))
    return folder


@pytest.fixture(scope="module")
def page(browser: Browser, sweep: Path) -> Page:
    """The sweep's page, for tests that leave it as it is; the plotting library takes seconds to start."""
    return opened(browser, sweep)


def opened(browser: Browser, folder: Path, **options: Any) -> Page:
    """Open a page from disk without a network; whatever it complains of is kept in its ``complaints``."""
    page = browser.new_context(offline=True, **options).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url))
    page.goto((folder / "report.html").resolve().as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    assert complaints == []
    return page


def texts(page: Page, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_text_contents()]


def test_the_heat_maps_show_the_means_of_the_table(page: Page, sweep: Path) -> None:
    done = pd.read_csv(sweep / "runs.csv").query("status == 'completed'")
    means = done.groupby(["split_point_1", "split_point_2"])[["loss", "client_gib", "bytes_per_step", "step_s"]].mean()
    for name, scale in {"loss": 1, "client_gib": 1, "bytes_per_step": 2**20, "step_s": 1e-3}.items():
        shown = texts(page, f"#heat-{name}-0 .heatmap-label text")
        assert sorted(float(text) for text in shown) == pytest.approx(sorted(means[name] / scale), rel=1e-3), name
    assert texts(page, "#heat-loss-0 .xtick text") == ["6", "7"]
    assert texts(page, "#heat-loss-0 .ytick text") == ["1", "2", "3", "4", "7"]
    # Cuts that did not complete have crosses.
    assert page.locator("#heat-loss-0 .scatterlayer .point").count() == 2
    assert page.locator("#heat-token_recovery-0").count() == 0


def test_the_table_of_runs_is_that_of_the_file(page: Page, sweep: Path) -> None:
    table = pd.read_csv(sweep / "runs.csv")
    assert texts(page, "#runs td:nth-child(1)") == table["run"].tolist()
    assert texts(page, "#runs td:nth-child(2)") == table["status"].tolist()
    headings = [text.split(" (")[0] for text in texts(page, "#runs th")]
    losses = texts(page, f"#runs td:nth-child({1 + headings.index('held-out loss')})")
    assert [float(text) for text in losses if text] == pytest.approx(table["loss"].dropna().tolist(), abs=1e-4)
    failures = dict(zip(texts(page, "#failures td:nth-child(1)"), texts(page, "#failures td:nth-child(3)"), strict=True))
    assert failures["split.point_1=7,split.point_2=6,seed=0"] == "split points 7 / 6 do not cut the model"
    assert texts(page, ".chip") == ["6 completed", "1 failed", "1 refused"]


def test_the_recommendation(page: Page) -> None:
    assert texts(page, ".cut strong") == ["1 / 6"]
    assert "1 of 3 cuts meet the budgets (max_client_gib=1.9)" in texts(page, ".reason")[0]
    assert texts(page, "#choice code")[0].startswith("python -m splitlearn train model=embedded trainer.max_steps=20")


def test_budgets_that_no_cut_meets(browser: Browser, sweep: Path, tmp_path: Path) -> None:
    write_report([sweep], tmp_path, Budgets(max_client_gib=0.1))
    page = opened(browser, tmp_path)
    assert page.locator(".cut strong").count() == 0 and page.locator("#choice code").count() == 0
    assert texts(page, ".reason")[0].startswith("No cut meets the budgets: max_client_gib=0.1 is met by none")


def test_the_front_names_its_runs(page: Page) -> None:
    point = page.locator("#trade-client_gib-0 .scatterlayer .point").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.wait_for_selector("#trade-client_gib-0 .hoverlayer .hovertext")
    assert "split.point_1=1,split.point_2=6,seed=0" in " ".join(texts(page, "#trade-client_gib-0 .hoverlayer .hovertext"))


def test_plots_and_tables_are_used_by_keyboard(page: Page, sweep: Path) -> None:
    page.locator("body").press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#heat-loss-0")
    said = page.locator("#heat-loss-0 + figcaption output")
    page.keyboard.press("ArrowRight")
    first = said.text_content() or ""
    assert first.startswith("cut 1 / 6\nheld-out loss: 3.7812 ± 0.0442\nsplit.point_1=1,split.point_2=6,seed=0")
    page.wait_for_selector("#heat-loss-0 .hoverlayer .hovertext", timeout=5000)
    page.keyboard.press("ArrowLeft")
    assert "refused: split points 7 / 6" in " ".join(texts(page, "#heat-loss-0 + figcaption output"))
    page.keyboard.press("Escape")
    assert said.text_content() == ""
    page.focus("#runs th:nth-child(1) button")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    names = pd.read_csv(sweep / "runs.csv")["run"].tolist()
    assert texts(page, "#runs td:nth-child(1)") == sorted(names, reverse=True)
    assert page.locator("#runs th:nth-child(1)").get_attribute("aria-sort") == "descending"


def contrast(page: Page, selector: str) -> float:
    """The contrast of a text with the page, as the guidelines for accessible content reckon it."""
    colors = page.evaluate(
        """selector => { const style = getComputedStyle(document.querySelector(selector));
        return [document.querySelector(selector) instanceof SVGElement ? style.fill : style.color,
                getComputedStyle(document.body).backgroundColor]; }""",
        selector,
    )
    lights = []
    for color in colors:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")])
def test_words_are_readable_in_every_mode(page: Page, scheme: Any, media: Any) -> None:
    page.emulate_media(color_scheme=scheme, media=media)
    for selector in (
        "#heat-loss-0 .xtick text",
        "#trade-client_gib-0 .legendtext",
        "#trade-client_gib-0 .textpoint text",
        "figcaption",
        "td",
    ):
        assert contrast(page, selector) > 4.5, selector
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light" or media == "print")
    page.emulate_media(color_scheme="light", media="screen")


def test_plots_fit_the_paper(browser: Browser, sweep: Path) -> None:
    page = opened(browser, sweep, viewport={"width": 1300, "height": 900})
    widest = "Math.max(...[...document.querySelectorAll('.main-svg')].map(svg => svg.getBoundingClientRect().right))"
    assert page.evaluate(widest) > 1000
    page.set_viewport_size({"width": 720, "height": 900})
    page.emulate_media(media="print")
    page.wait_for_selector("html.printing", state="attached")
    assert page.evaluate(widest) <= 720
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_nothing_of_a_record_becomes_part_of_the_page(browser: Browser, tmp_path: Path) -> None:
    bad: dict[str, Any] = {"tags": [HOSTILE, "javascript:alert(1)"], "model": HOSTILE}
    write_run(tmp_path / "<b>one</b>", summary(1, 6, **bad), [4.0, 3.0], typed=[f"tags={HOSTILE}"])
    write_run(tmp_path / "two", summary(2, 6, overrides=[f"data.x={HOSTILE}"], **bad), [4.0, 3.0])
    write_run(tmp_path / "three", summary(3, 6, **bad | {"status": "failed", "reason": HOSTILE}))
    write_run(tmp_path / "four", summary(3, 7, **bad | {"status": HOSTILE}))
    (tmp_path / f"left{HOSTILE.replace('/', '')}").mkdir()
    (tmp_path / f"left{HOSTILE.replace('/', '')}" / "config.yaml").write_text("a: 1\n")
    write_report([tmp_path])
    page = opened(browser, tmp_path)
    for place in ("#heat-loss-0", "#trade-client_gib-0", "#curve-val_loss-0"):
        page.focus(place)
        for _ in range(4):
            page.keyboard.press("ArrowRight")
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, iframe, object, main a, main script").count() == 0
    assert page.locator("script").count() == 3
    assert HOSTILE in texts(page, "#failures td:nth-child(3)") and "<b>one</b>" in texts(page, "#runs td:nth-child(1)")


def test_no_script_but_the_page_s_own_may_run(browser: Browser, sweep: Path, tmp_path: Path) -> None:
    text = (sweep / "report.html").read_text(encoding="utf-8")
    (tmp_path / "report.html").write_text(text.replace("<main", "<script>window.harmed=1</script><main", 1), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("window.harmed") is None


def test_the_page_of_one_run(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", summary(2, 6), [5.0, 4.0, 3.5])
    epochs = [
        {
            "epoch": number,
            "parts": [{"name": "bottom", "weight_bytes": 2**30}],
            "process": {"label": f"epoch {number}", "time_s": number, "rss_bytes": 2**31},
        }
        for number in (1, 2)
    ]
    (run / "memory_report.json").write_text(json.dumps({"unit": "bytes", "epochs": epochs}))
    write_report([run])
    page = opened(browser, run)
    rows = [texts(page, f"#time tbody tr:nth-child({1 + place}) td") for place in range(len(PHASES))]
    assert rows[0] == ["data", "10.00", "12.50", "15.00"] and rows[-1] == ["step", "90.00", "112.50", "135.00"]
    assert sorted(texts(page, "#phases .ytick text")) == sorted(name.replace("_", " ") for name in PHASES if name != "step")
    table = pd.read_csv(run / "runs.csv").iloc[0]
    facts = dict(zip(texts(page, "dt"), texts(page, "dd"), strict=True))
    assert (
        float(facts["client memory (GiB)"]) == table["client_gib"]
        and float(facts["held-out loss (nats a token)"]) == table["loss"]
    )
    assert texts(page, "#held tbody tr:nth-child(1) td") == ["bottom", "768.00 MiB", "768.00 MiB", "1.20 GiB", "307.20 MiB"]
    assert texts(page, "#crossing tbody tr:nth-child(1) td") == ["cut 1", "activations", "up", "3.0 KiB"]
    assert texts(page, "#receipt tbody tr:nth-child(3) td")[:5] == ["top", "layers of top", "1", "1.00 MiB", "1.00 MiB"]
    page.focus("#memory")
    page.keyboard.press("ArrowRight")
    assert texts(page, "#memory + figcaption output") == ["epoch 1, process, resident: 2.000 GiB"]
    for place in ("#curve-val_loss", "#curve-train_loss_step", "#parts", "#traffic"):
        assert page.locator(f"{place} .main-svg").count() > 0, place


def test_a_run_that_was_refused_has_a_page(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"status": "refused", "reason": "no cut", "model": "tiny", "split_point_1": 9})
    write_report([run])
    page = opened(browser, run)
    assert texts(page, ".reason") == ["no cut"] and page.locator(".plot").count() == 0


def test_many_runs_have_few_curves_and_a_small_page(tmp_path: Path) -> None:
    for number in range(230):
        record = summary(1, 6, overrides=[f"optimizer.learning_rate={number}"])
        record["metrics"]["val_loss_after"] = 4.0 + number
        write_run(tmp_path / f"{number:03}", record, [4.0, 3.0] if number in (0, 5, 229) else ())
    report = write_report([tmp_path])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text) < 10 * 2**20 and len(report.groups) == 230
    figures = json.loads(text.partition('id="figures">')[2].partition("</script>")[0])
    # The one on the front and the twenty best; of these two have logged losses.
    assert [trace["meta"] for trace in figures["curve-val_loss-0"]["data"]] == ["005", "000"]
    assert "Of 230 runs the curves of 20 are shown" in text


def test_damaged_curves_are_named(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    broken = next(tmp_path.glob("split.point_1=3*seed=0")) / "metrics" / "metrics.csv"
    broken.write_bytes(b"step,val_loss\n1,\xff\xfe\n")
    write_report([tmp_path])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The curves of split.point_1=3,split.point_2=7,seed=0 are left out" in text


def test_several_models_are_apart(tmp_path: Path) -> None:
    for model in ("one", "two"):
        for first in (1, 2):
            record = summary(first, 6, model=model)
            record["attacks"] = {"headline": {"token_recovery": 0.125 * first}}
            write_run(tmp_path / model / str(first), record)
    report = write_report([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert list(report.recommended) == ["one", "two"] and report.files[0] == tmp_path / "out" / "report.html"
    assert len(group_runs(report.frame)) == 4
    text = report.files[0].read_text(encoding="utf-8")
    assert 'id="heat-loss-1"' in text
    figures = json.loads(text.partition('id="figures">')[2].partition("</script>")[0])
    # In percent, where somebody measured it.
    assert figures["heat-token_recovery-1"]["data"][0]["z"] == [[12.5], [25.0]]


def test_records_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"none of the 1 records can be read, such as that of 0: .*is not JSON"):
        write_report([tmp_path])


def test_without_a_browser_the_tests_fail_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(pytest.fail.Exception, match=r"install it .* or set CHROMIUM=PATH"):
        find_chromium()


def test_servers_have_a_row_each() -> None:
    one = {"address": "a:1", "peak_rss_bytes": 3 * 2**30, "computed_s": 1.5, "waited_s": 2.25, "sent_bytes": 2048}
    assert server_rows(one) == [["a:1", "3.00 GiB", "1.50", "2.25", "2.0 KiB", ""]]
    rows = server_rows({"address": "a:1, b:2", "parties": {"first": one, "second": {**one, "address": "b:2<"}}})
    assert [row[0] for row in rows] == ["a:1", "b:2<"]
    # A record is somebody else's, perhaps.
    assert server_rows({}) == [] and server_rows({"address": "c:3", "computed_s": "x"})[0][2] == ""
