"""A sweep's report and its description: what they contain, and that a record cannot inject markup."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from nnexp.analysis import plots, report
from nnexp.analysis.report.findings import Findings, question
from nnexp.analysis.report.note import MAX_NOTE, begun, note
from nnexp.analysis.report.page import page
from nnexp.analysis.report.pictures import Picture, in_words
from nnexp.analysis.summary import finished, summarize, varying
from nnexp.tracking.reader import Detail

pytestmark = pytest.mark.slow

PAGE = Path(report.__file__).parent
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script></style><h1>x</h1>",
    "a | b | c",
    "`code` **bold** _it_ [x](javascript:alert(1)) ![i](http://host/i.png)",
    "line one\n\n# line two\n| - |",
    "{{ found }} {% include 'page.js' %}",
]


def runs_of(n=24, name=lambda i: f"xor seed={i}", **columns):
    """Make runs like those of `load_runs`, several seeds per rate; the last failed, another diverged."""
    frame = pd.DataFrame(
        {
            "run_id": [f"{i:032x}" for i in range(n)],
            "run_name": [name(i) for i in range(n)],
            "status": ["FINISHED"] * (n - 1) + ["FAILED"],
            "outcome": ["converged"] * (n - 2) + ["diverged", None],
            "reason": [None] * (n - 1) + ["MemoryError: no room"],
            "run_key": [f"{i:064x}" for i in range(n)],
            "learning_rate": [0.1 + i % 2 for i in range(n)],
            "seed": range(n),
            "loss": [1 / (3 + i) for i in range(n)],
            "accuracy": 1.0,
        }
    )
    return frame.assign(**columns)


def findings(runs, total=None, tags=None, params=None, title="sweep: 24 runs"):
    done = finished(runs)
    parent = Detail("f" * 32, title, "RUNNING", "", "1", params or {"seed": "0, 1"}, {}, tags or {})
    return Findings.of(parent, total or len(runs), runs, summarize(done, varying(done)))


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts between its tags."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.texts = [], [""]
        self.feed(content.decode())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.texts.append("")

    def handle_endtag(self, tag):
        self.texts.append("")

    def handle_data(self, data):
        self.texts[-1] += data

    def every(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_report_shows_the_question_the_command_the_ranges_and_the_counts():
    tags = {"nnexp.question": "What is best?", "nnexp.command": "nnexp train -m 'seed=range(24)'"}
    seen = Page(page(findings(runs_of(), total=30, tags=tags, params={"init": "he, ones"}), []))
    for text in ("What is best?", tags["nnexp.command"], "init", "he, ones", "sweep: 24 runs"):
        assert text in seen.texts
    assert "MemoryError: no room" in seen.texts
    counts = "30 runs, 23 done, 1 failed, 1 diverged, 6 not run"
    assert counts in " ".join(" ".join(seen.texts).split()).replace(" ,", ",")


def test_the_best_runs_come_first_and_diverged_ones_last():
    found = findings(runs_of())
    assert found.ranked(len(found.runs))["seed"].tolist() == [*range(21, -1, -1), 22]
    assert found.best(3)["seed"].tolist() == [21, 20, 19]
    assert found.worst(2)["seed"].tolist() == [22, 0]
    few = findings(runs_of(4))
    assert (len(few.best(5)), len(few.worst(5))) == (3, 0)


def test_losses_of_different_data_sets_are_not_compared():
    found = findings(runs_of(dataset=["xor", "gender"] * 12))
    assert found.best(1)[["dataset", "seed"]].to_numpy().tolist() == [["gender", 21], ["xor", 20]]


def swept(loss, datasets=("xor",), rates=(0.1, 1, 10), seeds=8):
    """Make runs over data sets, learning rates and seeds, with the loss of each by a function of these."""
    rows = [(data, rate, seed) for data in datasets for rate in rates for seed in range(seeds)]
    columns = dict(zip(("dataset", "learning_rate", "seed"), map(list, zip(*rows, strict=True)), strict=True))
    ended = {"status": "FINISHED", "outcome": "finished"}
    return runs_of(len(rows), **columns, **ended, loss=[loss(*row) for row in rows])


def test_the_best_setting_is_named_with_its_rivals_and_how_many_seeds_would_tell_them_apart():
    def loss(_, rate, seed):
        return {0.1: 1 + seed / 100, 1: 0.1 + (seed * 5) % 8 / 100, 10: 0.105 + (seed * 3) % 8 / 100}[rate]

    found = findings(swept(loss))
    (answer,) = found.answers
    assert (answer.of, answer.setting) == ("", "learning_rate=1")
    assert answer.median.startswith("0.135, 95% interval 0.1")
    assert [setting for setting, _ in answer.rivals] == ["learning_rate=10"]
    assert answer.open.startswith("not separable with 8 seeds; ")
    shown = " ".join(" ".join(Page(page(found, [])).texts).split())
    assert "★ learning_rate=1 has the lowest median loss: 0.135, 95% interval" in shown
    assert "~ 1 cannot be told from it: learning_rate=10 ( 0.14" in shown.replace("(", "( ")
    assert note(found, [], "1").count("has the lowest median loss") == 1
    assert findings(runs_of(4)).answers == []  # two seeds each


def test_each_data_set_has_its_own_best_setting_and_its_own_open_question():
    def loss(data, rate, seed):
        return rate + seed / 100 if data == "xor" else (seed * (3 if rate == 1 else 5)) % 8 / 100

    found = findings(swept(loss, ("gender", "xor"), rates=(1, 10)))
    gender, xor = found.answers
    assert (gender.of, xor.of) == ("dataset=gender", "dataset=xor")
    assert (xor.setting, xor.rivals, xor.open) == ("learning_rate=1", (), "")
    assert len(gender.rivals) == 1
    assert "would be needed" in gender.open
    assert "All other settings are worse" in " ".join(Page(page(found, [])).texts)


def test_a_report_names_what_was_held_fixed_the_metric_that_decides_and_what_is_open():
    runs = runs_of(seed=[i // 2 for i in range(24)], init="he", activation="tanh", validation_fraction=0.2)
    runs["val_loss"] = [(7 * i) % 24 / 24 for i in range(24)]
    found = findings(runs)
    assert found.metric == "val_loss"
    assert found.fixed == {"init": "he", "activation": "tanh", "validation_fraction": "0.2"}
    assert found.ranked(len(found.runs))["seed"].iloc[0] == 0
    assert found.headline[0][:2] == ("best_median_val_loss", 0)
    seen = " ".join(" ".join(Page(page(found, [])).texts).split())
    for words in ("lowest median val_loss", "Everything else", "activation tanh", "Not separable with 1"):
        assert words in seen


def test_a_report_shows_the_data_the_split_and_the_experiments_file():
    tags = {"nnexp.data": "wine: 178 rows (125 training, 53 validation), 13 features -> cultivar"}
    text = "# What?\nhidden: [2]\nname: <b>"
    seen = Page(page(findings(runs_of(), tags=tags), [], text)).texts
    assert tags["nnexp.data"] in seen
    assert text in seen
    assert "The experiment" not in " ".join(Page(page(findings(runs_of()), [])).texts)


def test_a_point_that_failed_and_then_finished_is_done():
    runs = runs_of()
    again = runs.tail(1).assign(run_id="a" * 32, status="FINISHED", outcome="converged")
    assert findings(pd.concat([runs, again]), total=24).counts == {"runs": 24, "done": 24, "diverged": 1}


def test_numbers_sort_by_all_their_digits():
    content = page(findings(runs_of()), []).decode()
    assert f'<td class="number" data-v="{1 / 3!r}">0.3333</td>' in content
    assert '<td class="number">0.1</td>' in content  # the text is exact, so there is no data-v
    for button in re.findall(r"<th[^>]*>(.*?)</th>", content):
        assert button.startswith('<button type="button">')


def test_a_report_loads_nothing_and_lets_only_its_own_script_run():
    picture = Picture("means", "loss against rate", b"\x89PNG")
    seen = Page(page(findings(runs_of()), [picture]))
    assert not seen.every("link")
    assert [image["src"] for image in seen.every("img")] == [
        "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    ]
    assert seen.every("img")[0]["alt"] == "means: loss against rate"
    (policy,) = [meta["content"] for meta in seen.every("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    for name in ("page.css", "page.js"):
        digest = base64.b64encode(hashlib.sha256((PAGE / name).read_bytes()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert seen.every("script") == seen.every("style") == [{}]


@pytest.mark.parametrize("n", [0, 4], ids=["none has ended", "all failed"])
def test_a_sweep_without_a_result_has_a_report(n):
    runs = runs_of(4).drop(columns=["loss", "accuracy"]).assign(status="FAILED", outcome=None, reason="why")
    parent = Detail("f" * 32, "sweep: 4 runs", "KILLED", "", "1", {"seed": "0, 1"}, {}, {})
    found = Findings.of(parent, 4, runs.head(n), None)
    assert Page(page(found, [])).texts.count("why") == n
    assert note(found, [], "1").startswith(f"**4 runs**: 0 done, {'4 failed' if n else '4 not run'}\n\n")


@pytest.mark.parametrize("text", HOSTILE)
def test_html_in_a_record_is_escaped(text):
    plain = Page(page(findings(runs_of()), []))
    keys = ("nnexp.question", "nnexp.command", "nnexp.python", "mlflow.user")
    runs = runs_of(name=lambda i: text, outcome=text, reason=text, init=[text, "he"] * 12)
    hostile = findings(runs, tags=dict.fromkeys(keys, text), params={text: text, "init": text}, title=text)
    seen = Page(page(hostile, [Picture(text, text, b"")]))
    assert {tag for tag, _ in seen.elements} - {"img", "figure", "figcaption"} <= {
        tag for tag, _ in plain.elements
    } | {"pre", "code", "p"}
    assert len(seen.every("script")) == 1
    title = text.replace("_", " ")
    assert [image["alt"] for image in seen.every("img")] == [f"{title}: {text}"]
    allowed = {"class", "data-v", "scope", "type", "tabindex", "role", "aria-label", "src", "alt", "lang"}
    allowed |= {"charset", "http-equiv", "content", "name"}
    assert {name for _, attributes in seen.elements for name in attributes} <= allowed
    assert seen.texts.count(text) > 24


def test_a_range_of_many_values_is_abbreviated():
    params = {"seed": ", ".join(map(str, range(1000))), "init": "he, ones"}
    shown = {"seed": "0, 1, 2, 3, 4, …, 999 (1,000 values)", "init": "he, ones"}
    assert findings(runs_of(), params=params).ranges == shown


def test_a_figure_is_described_in_words():
    runs = runs_of(init=["he", "ones", "normal"] * 8, learning_rate=[0.1, 0.1, 0.1, 1, 1, 1] * 4, epochs=10)
    figure = plots.of_sweep(runs.head(22).assign(**{"params.loss": "mse"}), None)["loss_by_learning_rate"]
    words = in_words(figure)
    assert words.startswith("loss by learning_rate, init: median. axes: loss (mse)")
    assert "against learning_rate" in words
    assert words.endswith("key: init he, normal, ones")


def test_a_report_of_a_thousand_runs_is_small():
    content = page(findings(runs_of(1000)), [])
    assert len(content) < 400_000
    assert "All 999 runs" in content.decode()


def test_a_report_of_very_many_runs_lists_only_the_best():
    content = page(findings(runs_of(2500)), []).decode()
    assert "The 2,000 best of 2,499 runs" in content
    assert len(content) < 1_000_000


# --- the description


def test_a_description_links_to_the_best_run_and_to_the_report():
    tags = {"nnexp.question": "What is best?", "nnexp.command": "nnexp train -m"}
    text = note(findings(runs_of(), tags=tags), ["report.html"], "7")
    parts = text.split("\n\n")
    assert parts[0] == "**Question:** What is best?"
    assert parts[1] == "**24 runs**: 23 done, 1 failed, 1 diverged"
    assert parts[2].splitlines() == [
        "- learning_rate=1.1 has the lowest median loss: 0.071, 95% interval 0.045 to 0.167, 100% (74-100) "
        "solved. Rivals: learning_rate=0.1 (not separable with 12 seeds; about 200 would be needed)",
        f"- Best run: [xor seed=21](#/experiments/7/runs/{21:032x}): loss 0.0417, accuracy 1.00",
    ]
    assert "    nnexp train -m" in parts
    assert parts[-1] == f"Artifacts: [report.html](#/experiments/7/runs/{'f' * 32}/artifacts/report.html)"
    assert "&ensp;★ |" in text


def test_a_long_description_is_cut_between_two_rows():
    runs = runs_of(400, learning_rate=[i / 7 for i in range(400)], init=["x" * 150] * 399 + ["he"])
    tags = {"nnexp.question": "q" * 9000, "nnexp.command": "c" * 9000}
    text = note(findings(runs, tags=tags, params={f"key{i}": "v" * 500 for i in range(60)}), ["a"] * 9, "1")
    assert len(text) <= MAX_NOTE
    assert text.endswith("artifacts/a)")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert f"The {len(rows) - 2} rows with the lowest median loss, of 399" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_in_a_record_is_escaped(text):
    runs = runs_of(name=lambda i: text, init=[text, "he"] * 12)
    described = note(findings(runs, tags={"nnexp.question": text}, params={text: text}), [], "1")
    plain = note(findings(runs_of(init=["ones", "he"] * 12), tags={"nnexp.question": "q"}), [], "1")
    assert "<" not in described
    # As many paragraphs, rows and cells as with harmless names.
    assert described.count("\n") == plain.count("\n")
    bars = [re.sub(r"\\.", "", line).count("|") for line in described.splitlines()]
    assert bars == [line.count("|") for line in plain.splitlines()]
    unescaped = re.sub(r"\\.|&\w+;", "", described)
    assert unescaped.count("](") == plain.count("](")
    assert "`" not in unescaped
    assert unescaped.count("*") == plain.count("*")


def test_a_command_of_several_lines_stays_one_block():
    assert begun("", "a\n\n</code>", {}).splitlines()[-3:] == ["    a", "    ", "    </code>"]


# --- from the command line


def test_a_sweep_leaves_its_report_and_its_description(nnexp, store, three_wide_fails):
    nnexp("train", "-m", "hidden=[2],[3],[4]", "seed=range(3)", "epochs=5", "figures=false")
    client = MlflowClient(f"sqlite:///{store}")
    (parent,) = client.search_runs(["1"], "tags.`nnexp.sweep` != ''")
    text = parent.data.tags["mlflow.note.content"]
    assert "**9 runs**: 6 done, 3 failed" in text
    assert "- **hidden**: \\[2\\], \\[3\\], \\[4\\]" in text
    assert "learning_rate" not in parent.data.params
    content = Path(client.download_artifacts(parent.info.run_id, "report.html")).read_text()
    assert content.count("MemoryError: no room") == 3
    assert "nnexp.git_commit" in content or "nnexp.python" in content
    assert not {"loss", "accuracy"} & set(parent.data.metrics)  # the table of runs is sorted by these


def test_a_sweep_whose_points_all_fail_is_recorded_and_exits_with_1(nnexp, store, three_wide_fails):
    ended = nnexp("train", "-m", "hidden=[3]", "seed=1,2", "epochs=5")
    assert ended.status == 1
    assert "2 runs, 2 failed, recorded as sweep" in ended.out


def test_the_newest_sweep_is_reported_by_default(nnexp, store, tmp_path):
    def swept(*typed):
        return (
            nnexp("train", "-m", "epochs=5", "figures=false", *typed)
            .out.split("recorded as sweep ")[1]
            .split()[0]
        )

    first, second = swept("seed=1,2"), swept("seed=3,4,5")
    ended = nnexp("report")
    which = "sweep: 3 runs over seed, of experiment nnexp"
    assert (ended.status, ended.err) == (0, f"wrote {second}.html: {which}\n")
    assert "3 runs over seed" in (tmp_path / f"{second}.html").read_text()
    assert nnexp("report", first, "--out", "first.html").err.startswith("wrote first.html: sweep: 2 runs")
    assert "2 runs over seed" in (tmp_path / "first.html").read_text()


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("report nothing", "no run 'nothing' in this store"),
        ("report", "there is no sweep in this store; nnexp train -m records one"),
        ("report --experiment nnexp", "there is no sweep in experiment 'nnexp'; nnexp train -m records one"),
        ("report --experiment nothing", "unknown experiment 'nothing'"),
    ],
)
def test_a_report_of_an_unknown_sweep_is_refused(nnexp, store, tmp_path, typed, words):
    nnexp("train", "epochs=5", "figures=false", "model=false")
    before = set(tmp_path.iterdir())
    ended = nnexp(*typed.split())
    assert ended.status == 2
    assert words in ended.err
    assert set(tmp_path.iterdir()) == before


def test_a_report_of_a_run_or_to_a_missing_directory_is_refused(nnexp, store):
    typed = ("train", "-m", "epochs=5", "seed=1,2", "figures=false")
    sweep = nnexp(*typed).out.split("recorded as sweep ")[1].split()[0]
    client = MlflowClient(f"sqlite:///{store}")
    child = client.search_runs(["1"], f"tags.`nnexp.sweep_id` = '{sweep}'")[0].info.run_id
    ended = nnexp("report", child)
    assert ended.status == 2
    assert f"run {child} is one trained network" in ended.err
    assert f"its sweep is {sweep}" in ended.err
    ended = nnexp("report", "--out", "no/such/place.html")
    assert ended.status == 2
    assert "--out no/such/place.html: there is no directory no/such" in ended.err


def test_the_question_is_the_first_comment_of_the_experiments_file():
    assert question("emily_and_frank").startswith("The articles train once and print `0.951`")
    assert question("emily_and_frank").endswith("what would other seeds have printed?")
    assert question("sweep") == ""
