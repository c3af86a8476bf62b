"""The MLflow UI as `nnexp ui` serves it: what it answers to programs, and what a user of MLflow sees and
clicks in a real browser.

A picture of each visited page is kept in tests/program/screenshots.
"""

import re
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.real import NNEXP, free_port, is_up, needs, started, wait_for

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
# Dialogs that MLflow shows at a first visit, until they are closed.
CLOSED = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
PICTURES = Path(__file__).with_name("screenshots")
TIMEOUT = 120_000  # milliseconds; a busy machine takes its time
SWEEP = ["dataset=xor", "init=normal,uniform,xavier,he", "learning_rate=0.05,0.2,0.5,1,2"]
SWEEP += ["epochs=2000", "seed=range(10)"]
FOLDED = ["experiment_name=folded", "dataset=xor", "seed=1,2", "epochs=200", "figures=false"]


@pytest.fixture(scope="module")
def served(tmp_path_factory, record):
    """A store with a sweep of 200 runs and a single run, and an experiment with only a sweep."""
    place = tmp_path_factory.mktemp("site")
    record(place, ["train", "-m", *SWEEP], ["train", "weights_every=100"], ["train", "-m", *FOLDED])
    return place / "mlflow.db"


@pytest.fixture(scope="module")
def site(served):
    """The address of the UI's page that `nnexp ui` names."""
    place = served.parent
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{served}")
        port = free_port()
        with (place / "log").open("w") as log, started(*NNEXP, "ui", "--port", str(port), log=log):
            wait_for(lambda: is_up(f"http://127.0.0.1:{port}"))
            (address,) = re.findall(r"http://\S+", (place / "log").read_text().splitlines()[0])
            yield address


@pytest.fixture(scope="module")
def browser():
    """A browser's window. Its pages share a cache, as MLflow's UI loads megabytes of script."""
    needs("Chromium", CHROMIUM)
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        program = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        window = program.new_context(viewport={"width": 1400, "height": 900})
        window.set_default_timeout(TIMEOUT)
        window.add_init_script(CLOSED)
        yield window
        program.close()


@pytest.fixture
def page(site, browser):
    """The UI's first page; no page may request anything from another machine."""
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(site)
    yield page
    elsewhere = [url for url in asked if not url.startswith((site.partition("#")[0], "data:", "blob:"))]
    page.close()
    assert elsewhere == []


@pytest.fixture(scope="module")
def pictured():
    """`pictured(page, "runs")` saves a picture of the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")


def open_sweep(page):
    page.get_by_role("link", name=re.compile("^sweep: 200 runs")).click()
    expect(page.get_by_role("heading", name="sweep: 200 runs over init, learning_rate, seed")).to_be_visible()


def open_alone(page):
    page.get_by_role("link", name="gender lr=0.1 init=normal seed=0").click()
    expect(page.get_by_role("heading", name="gender lr=0.1 init=normal seed=0")).to_be_visible()


def row_of(page, name):
    """Return the cells of a run's row by column, collected from the parts of MLflow's table."""
    link = page.get_by_role("link", name=name, exact=True)
    index = link.locator("xpath=ancestor::*[@row-index][1]").get_attribute("row-index")
    cells = page.locator(f'[row-index="{index}"] [col-id]')
    return {cell.get_attribute("col-id"): cell.inner_text() for cell in cells.all()}


def test_the_ui_answers_only_on_this_machine_and_records_as_a_file_does(
    site, served, nnexp, monkeypatch, tmp_path
):
    here, _, page = site.partition("/#")
    assert page.startswith("/experiments/1/runs?viewStateShareKey=nnexp")

    def get(path, **headers):
        asked = urllib.request.Request(here + path, headers=headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()

    assert b"MLflow" in get("/")
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        get("/api/2.0/mlflow/experiments/search?max_results=1", Host="10.evil.com")
    refused.value.close()
    summarize = [
        "summarize",
        "--experiment",
        "apart",
        "--by",
        "seed",
        "--threshold",
        "0.3",
        "--format",
        "json",
    ]
    report = ["report", "--experiment", "apart", "--out"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    quick = ["experiment_name=apart", "epochs=20", "figures=false"]
    assert nnexp("train", "-m", *quick, "seed=1,2").status == 0
    run_id = nnexp("train", *quick).out.split("recorded as ")[1].split()[0]
    assert "h1 = sigmoid(" in nnexp("show", run_id).out
    assert nnexp(*report, "by_server.html").status == 0
    by_server = nnexp(*summarize).out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{served}")
    assert nnexp(*summarize).out == by_server
    assert nnexp(*report, "by_file.html").status == 0
    by_server_html, by_file = ((tmp_path / f"by_{how}.html").read_text() for how in ("server", "file"))
    assert by_file == by_server_html


def test_the_table_shows_names_and_columns_worth_reading(page, pictured):
    expect(page.get_by_role("link", name="gender lr=0.1 init=normal seed=0")).to_be_visible()
    cells = row_of(page, "gender lr=0.1 init=normal seed=0")
    assert cells["metrics.`loss`"].startswith("0.002403")
    assert cells["metrics.`accuracy`"] == "1"
    assert cells["params.`init`"] == "normal"
    assert cells["params.`learning_rate`"] == "0.1"
    assert cells["tags.`nnexp.outcome`"] == "converged"
    assert cells["attributes.`Dataset`"].startswith("gender (")


def test_a_sweep_unfolds_into_its_runs(page, pictured):
    sweep = page.get_by_role("link", name=re.compile("^sweep: 200 runs"))
    sweep.locator("xpath=ancestor::*[@row-index][1]").get_by_role("button").first.click()
    expect(page.get_by_role("link", name="xor lr=0.5 init=uniform seed=0")).to_be_visible()
    assert row_of(page, "xor lr=0.5 init=uniform seed=0")["metrics.`accuracy`"] == "1"
    pictured(page, "runs")
    page.locator("label:has(input[name=runs-view-mode][value=CHART])").click()
    for metric in ("loss", "accuracy", "grad_norm"):
        expect(page.get_by_role("heading", name=metric, exact=True)).to_be_visible()
    # Eight networks of the first ten rows are drawn in each of three charts.
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot path.js-line').length >= 24")
    pictured(page, "charts")


def test_the_charts_have_lines_while_all_sweeps_are_folded(site, page, pictured):
    page.goto(site.replace("/experiments/1/", "/experiments/2/"))
    expect(page.get_by_role("link", name="sweep: 2 runs over seed")).to_be_visible()
    page.locator("label:has(input[name=runs-view-mode][value=CHART])").click()
    for metric in ("best_loss", "best_accuracy", "best_grad_norm"):
        expect(page.get_by_role("heading", name=metric, exact=True)).to_be_visible()
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot path.js-line').length >= 3")
    expect(page.get_by_text("No charts in this section")).to_have_count(0)
    pictured(page, "folded")


def test_a_param_filters_the_table(page):
    # What is typed before the runs are there may be lost.
    expect(page.get_by_role("link", name="gender lr=0.1 init=normal seed=0")).to_be_visible()
    page.get_by_placeholder("metrics.rmse").fill('params.init = "he" and params.learning_rate = "0.5"')
    page.keyboard.press("Enter")
    # Ten runs, and the sweep that they are of.
    expect(page.get_by_text("11 matching runs")).to_be_visible()


def test_the_best_learning_rate_for_each_initialisation_is_two_clicks_away(page, pictured):
    open_sweep(page)
    page.get_by_text("Show more").click()
    for init, best in {"he": "1", "normal": "2", "uniform": "2", "xavier": "2"}.items():
        found = page.get_by_role("listitem").filter(has_text=f"init={init}: learning_rate={best} ")
        expect(found).to_be_visible()
    expect(page.get_by_role("columnheader", name="median_high")).to_be_visible()
    pictured(page, "sweep")


def test_a_sweep_s_figures_and_its_report_open(page, pictured):
    open_sweep(page)
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html", exact=True).first.click()
    report = page.frame_locator("iframe")
    expect(report.get_by_role("heading", name="Summary")).to_be_visible()
    pictured(page, "report")


def test_a_run_shows_its_figures(page, pictured):
    open_alone(page)
    pictured(page, "run")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("figures", exact=True).click()
    page.get_by_text("decision_surface.png").click()
    image = page.locator("img[src^='blob:'], img[src*='get-artifact']").first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.naturalWidth") > 500
    pictured(page, "figure")


def test_a_model_shows_its_signature(page, pictured):
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name="model", exact=True).click()
    page.get_by_text("Artifacts", exact=True).last.click()
    page.get_by_text("MLmodel", exact=True).click()
    for words in ("signature:", "weight_lb", "height_in", "label"):
        expect(page.locator("pre, code").filter(has_text=words).first).to_be_visible()
    pictured(page, "model")


def test_no_cell_of_a_report_is_cut(site, served, browser):
    page = browser.new_page()
    (report,) = [file for file in served.parent.rglob("report.html") if "sweep: 200 runs" in file.read_text()]
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    cut = """() => [...document.querySelectorAll("html, .wide, .sorts:not(.cards) th, td, dt, dd, p, img")]
        .filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth).length"""
    beyond = """() => [...document.querySelectorAll("td")]
        .filter((one) => one.getBoundingClientRect().right > innerWidth).length"""
    for width in (1300, 400):
        page.set_viewport_size({"width": width, "height": 900})
        wait_for(lambda: page.evaluate(cut) == 0, 60)
        assert page.evaluate(beyond) == 0, width
    page.close()
