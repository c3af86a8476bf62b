"""The MLflow model of a recorded network: made on request, loaded without nnexp, served over HTTP."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import nnexp as package
from nnexp.config.errors import RequestError
from nnexp.config.paths import CHECKOUT
from tests.real import free_port, started, wait_for

pytestmark = pytest.mark.slow

ROWS = [{"weight_lb": 128.0, "height_in": 63.0}, {"weight_lb": 155.0, "height_in": 68.0}]
SOFTMAX = ("output_activation=softmax", "loss=cross_entropy")
ALONE = ("figures=false", "model=false", "epochs=20")


@pytest.fixture
def trained(nnexp, store):
    """`trained("dataset=xor")` records a run without a model and returns its id."""

    def run(*keys):
        ended = nnexp("train", *ALONE, *keys)
        assert ended.status == 0, ended.err
        return ended.out.split("recorded as ")[1].split()[0]

    return run


@pytest.fixture
def exported(nnexp, trained, tmp_path):
    """`exported("dataset=xor")` exports such a run's model; returns its directory and the run's id."""

    def make(*keys):
        run_id = trained(*keys)
        ended = nnexp("export", run_id, "--to", str(tmp_path / run_id))
        assert ended.status == 0, ended.err
        return tmp_path / run_id, run_id

    return make


def predicted(nnexp, run_id, rows):
    """Return what `nnexp predict` answers to the rows."""
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    Path("rows.csv").write_text(table.getvalue())
    answers = json.loads(nnexp("predict", run_id, "rows.csv", "--format", "json").out)
    return [
        {k: v for k, v in answer.items() if k not in row} for row, answer in zip(rows, answers, strict=True)
    ]


def test_a_single_run_has_a_model_that_predicts_from_raw_rows(nnexp, store):
    run_id = nnexp("train", "figures=false").out.split("recorded as ")[1].split()[0]
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    answers = model.predict(pd.DataFrame(ROWS)).to_dict("records")
    assert answers == predicted(nnexp, run_id, ROWS)
    assert [answer["label"] for answer in answers] == ["F", "M"]
    assert answers[0]["probability"] == pytest.approx(0.9461602289784368, abs=1e-12)
    assert answers[1]["probability"] == pytest.approx(1 - answers[1]["y_pred"], abs=1e-15)


def test_the_signature_names_the_columns_with_their_units_and_types(exported):
    directory, _ = exported()
    told = mlflow.models.get_model_info(str(directory))
    inputs = {spec["name"]: spec["type"] for spec in told.signature.inputs.to_dict()}
    assert inputs == {"weight_lb": "double", "height_in": "double"}
    outputs = {spec["name"]: spec["type"] for spec in told.signature.outputs.to_dict()}
    assert outputs == {"y_pred": "double", "label": "string", "probability": "double"}
    example = mlflow.pyfunc.load_model(str(directory)).input_example
    assert example.to_dict("records")[0] == {"weight_lb": 135, "height_in": 66}


def test_export_logs_a_model_on_a_run_once_and_leaves_the_run_as_it_ended(nnexp, store):
    assert nnexp("train", "-m", "seed=1,2", "epochs=20").status == 0
    run_id = package.load_runs().run_id[0]
    client = MlflowClient(f"sqlite:///{store}")
    before = client.get_run(run_id)
    ended = nnexp("export", run_id)
    assert ended.status == 0
    answers = mlflow.pyfunc.load_model(ended.out.strip()).predict(ROWS).to_dict("records")
    assert answers == predicted(nnexp, run_id, ROWS)
    again = nnexp("export", run_id)
    assert (again.out, "already has a model" in again.err) == (ended.out, True)
    after = client.get_run(run_id)
    assert (after.info.status, after.info.end_time) == (before.info.status, before.info.end_time)
    assert after.data.metrics == before.data.metrics
    (output,) = after.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.name, logged.source_run_id, logged.params) == ("model", run_id, before.data.params)
    assert {metric.key: metric.value for metric in logged.metrics} == before.data.metrics
    assert {metric.step for metric in logged.metrics} == {20}
    client.delete_logged_model(output.model_id)
    assert nnexp("export", run_id).out not in ("", ended.out)


def test_a_run_whose_data_set_is_missing_is_exported_from_its_record(nnexp, store, tmp_path):
    (tmp_path / "own.csv").write_text("length_cm,y\n1,u\n2,v\n3,w\n4,u\n5,v\n6,w\n")
    own = ["dataset=csv", "dataset.path=own.csv", "dataset.features=[length_cm]", "dataset.target=y"]
    assert nnexp("train", "-m", *own, *SOFTMAX, "epochs=20", "seed=1,2").status == 0
    (tmp_path / "own.csv").unlink()
    run_id = package.load_runs().run_id[0]
    assert nnexp("export", run_id, "--to", "there").status == 0
    answers = mlflow.pyfunc.load_model("there").predict([{"length_cm": 3.0}]).to_dict("records")
    assert answers == predicted(nnexp, run_id, [{"length_cm": 3.0}])
    (answer,) = answers
    assert set(answer) == {"y_pred_u", "y_pred_v", "y_pred_w", "label", "probability"}
    assert answer["probability"] == answer[f"y_pred_{answer['label']}"]


def test_a_regression_model_returns_only_its_output(exported):
    directory, _ = exported("dataset=line", "hidden=[]", "output_activation=identity", "learning_rate=0.02")
    answers = mlflow.pyfunc.load_model(str(directory)).predict(pd.DataFrame({"x": [1.0, 2.0]}))
    assert list(answers) == ["y_pred"]


def test_a_model_contains_no_pickle_and_does_not_need_nnexp(exported):
    directory, _ = exported()
    names = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    assert names == {
        "MLmodel",
        "artifacts/weights.npz",
        "conda.yaml",
        "input_example.json",
        "python_env.yaml",
        "requirements.txt",
        "servable.py",
        "serving_input_example.json",
    }
    required = {line.split("==")[0] for line in (directory / "requirements.txt").read_text().split()}
    assert required == {"mlflow", "numpy", "pandas"}


BLOCKED = """
import importlib.abc, sys
import mlflow.pyfunc  # with what it imports, which an environment of the model's requirements has

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(f"{{name}} is not among the model's requirements")

sys.meta_path.insert(0, Refuse())
assert not {refused} & set(sys.modules), "already imported"
answers = mlflow.pyfunc.load_model({directory!r}).predict({rows!r})
print(answers.to_json(orient="records", double_precision=15))
"""


def test_a_model_loads_where_only_its_requirements_are(nnexp, exported):
    directory, run_id = exported()
    refused = {"nnexp", "hydra_plugins", "hydra", "omegaconf", "numba", "llvmlite", "tabulate"}
    code = BLOCKED.format(refused=refused, directory=str(directory), rows=ROWS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    for answer, expected in zip(json.loads(done.stdout), predicted(nnexp, run_id, ROWS), strict=True):
        assert answer == pytest.approx(expected, abs=1e-14)


def test_a_model_names_what_is_wrong_with_a_row(exported):
    directory, _ = exported()
    model = mlflow.pyfunc.load_model(str(directory))
    for row, words in [
        ({"weight_lb": 128.0}, "missing inputs ['height_in']"),
        ({"weight_lb": 128.0, "height_in": float("nan")}, "column 'height_in', row 1: nan is not a finite"),
        ({"weight_lb": float("inf"), "height_in": 63.0}, "column 'weight_lb', row 1: inf is not"),
        ({"weight_lb": "heavy", "height_in": 63.0}, "Incompatible input types for column weight_lb"),
        ({"weight_lb": 128, "height_in": 63.0}, "Incompatible input types for column weight_lb"),
    ]:
        with pytest.raises(MlflowException) as raised:
            model.predict([row])
        assert words in str(raised.value)


def test_a_served_model_answers_over_http_as_predict_does(nnexp, exported):
    directory, run_id = exported()
    port = free_port()
    address = f"http://127.0.0.1:{port}"

    def ask(content, kind="application/json"):
        body = content if isinstance(content, str) else json.dumps(content)
        head = {"Content-Type": kind}
        request = urllib.request.Request(f"{address}/invocations", body.encode(), head)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["predictions"]

    def is_up():
        try:
            return urllib.request.urlopen(f"{address}/ping", timeout=60).status == 200
        except OSError:
            assert server.poll() is None, "the server ended"
            return False

    # MLflow starts uvicorn by its name, so PATH must be as in an activated environment.
    place = Path(sys.executable).parent
    activated = os.environ | {"PATH": f"{place}{os.pathsep}{os.environ['PATH']}"}
    serve = [str(place / "mlflow"), "models", "serve", "-m", str(directory), "--env-manager", "local"]
    with started(*serve, "--host", "127.0.0.1", "--port", str(port), env=activated) as server:
        wait_for(is_up, 180)
        expected = predicted(nnexp, run_id, ROWS)
        assert ask({"dataframe_records": ROWS}) == expected
        table = {"columns": list(ROWS[0]), "data": [list(row.values()) for row in ROWS]}
        assert ask({"dataframe_split": table}) == expected
        assert ask({"dataframe_records": [{k: int(v) for k, v in row.items()} for row in ROWS]}) == expected
        text = "height_in,more,weight_lb\n63,x,128\n68,y,155\n"
        assert ask(text, "text/csv") == expected
        for row, words in [
            ({"weight_lb": 128}, "missing inputs"),
            (ROWS[0] | {"height_in": "x"}, "convert column height_in"),
            (ROWS[0] | {"height_in": None}, "column 'height_in', row 1: nan"),
        ]:
            with pytest.raises(urllib.error.HTTPError, match="400") as refused:
                ask({"dataframe_records": [row]})
            assert words in refused.value.read().decode()


@pytest.mark.parametrize(
    "keys", [("hidden=[3,2]", "activation=tanh", "weights_every=10"), ("dataset=xor", *SOFTMAX)]
)
def test_numpy_alone_rebuilds_a_network_from_its_weights(nnexp, store, trained, keys):
    run_id = trained(*keys)
    path = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="weights.npz"))
    net = package.load_network(path)
    X = np.array([[1.0, 0.0], [130.0, 70.0]])
    f = {"sigmoid": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh}
    f["softmax"] = lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    w = np.load(path, allow_pickle=False)
    a, (hidden, output, _) = (X - w["shift"]) / w["scale"], w["functions"]
    last = len(net.network.layers)
    for i in range(1, last + 1):
        a = f[output if i == last else hidden](a @ w[f"W{i}"].T + w[f"b{i}"])
    np.testing.assert_allclose(net.outputs(X), a, rtol=1e-13)
    assert package.load_network(run_id).predict(X) == net.predict(X)


def test_a_network_shows_itself_in_a_line_and_takes_a_data_frame_by_its_columns(store, trained):
    net = package.load_network(trained())
    assert repr(net) == "<network 2-2-1, sigmoid and sigmoid: weight_lb, height_in -> M, F>"
    rows = pd.DataFrame(ROWS, index=["Emily", "Frank"])
    answers = net.predict(
        rows.assign(city="Paris")[["city", "height_in", "weight_lb"]].astype({"weight_lb": int})
    )
    pd.testing.assert_frame_equal(
        answers, pd.DataFrame(net.predict(rows[["weight_lb", "height_in"]].to_numpy()), index=rows.index)
    )
    assert isinstance(net.predict([[128, 63]]), dict)
    for wrong, words in [
        (rows[["weight_lb"]], "column 'height_in' is missing: the network takes weight_lb, height_in"),
        (rows.assign(height_in=[63, None]), "column 'height_in', row 2: nan is not a finite number"),
        (rows.astype({"height_in": str}), "column 'height_in', row 1: '63.0' is not a finite number"),
        (pd.concat([rows, rows], axis=1), "column 'weight_lb' occurs 2 times"),
    ]:
        with pytest.raises(ValueError, match=words):
            net.predict(wrong)


def test_only_probabilities_are_in_the_column_probability(store, trained, tmp_path):
    (tmp_path / "own.csv").write_text("a,y\n1,u\n2,v\n3,w\n1,u\n2,v\n3,w\n")
    own = ["dataset=csv", "dataset.path=own.csv", "dataset.features=[a]", "dataset.target=y"]
    sigmoids = package.load_network(trained(*own)).predict([[1.0], [3.0]])
    assert list(sigmoids) == ["y_pred_u", "y_pred_v", "y_pred_w", "label"]
    assert "probability" in package.load_network(trained(*own, *SOFTMAX)).predict([[1.0]])


def test_the_numpy_of_the_docs_is_enough_for_the_articles_network(store, trained):
    page = CHECKOUT / "docs" / "how-to" / "serve.md"
    shutil.copy(mlflow.artifacts.download_artifacts(run_id=trained(), artifact_path="weights.npz"), ".")
    (block,) = re.findall(
        r"^(w = dict\(np\.load.*?\ny_pred = .+?)$", page.read_text(), re.DOTALL | re.MULTILINE
    )
    names = {"np": np, "X": np.array([[128.0, 63.0], [155.0, 68.0]])}
    exec(block.replace("model/artifacts/", ""), names)
    np.testing.assert_allclose(
        names["y_pred"], package.load_network("weights.npz").outputs(names["X"]), rtol=1e-14
    )


def test_an_export_that_is_impossible_is_refused_in_plain_words(nnexp, trained, tmp_path):
    run_id = trained()
    diverged = trained("dataset=line", "hidden=[]", "output_activation=identity", "learning_rate=1000")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("precious")
    for typed, words in [
        ((run_id, "--to", "full"), "the directory is not empty"),
        ((run_id, "--to", "full/mine.txt"), "is a file"),
        ((run_id, "--to", "."), "is the working directory"),
        ((run_id, "--to", "gone/model"), "there is no directory gone"),
        ((run_id, "--to", "m.onnx"), "--to m.onnx: must be a directory, but .onnx promises a file"),
        ((diverged,), "diverged"),
        (("nothing",), "no run 'nothing'"),
    ]:
        ended = nnexp("export", *typed)
        assert (ended.status, ended.out) == (2, "")
        assert words in ended.err
    assert (tmp_path / "full" / "mine.txt").read_text() == "precious"
    assert not (tmp_path / "m.onnx").exists()


def test_a_file_that_is_not_a_network_is_refused_in_plain_words(store, tmp_path):
    (tmp_path / "mine.npz").write_text("a letter")
    for source, words in [
        ("mine.npz", "mine.npz: weights.npz is damaged"),
        (tmp_path / "gone.npz", "gone.npz: cannot be read"),
        ("nothing", "no run 'nothing'"),
    ]:
        with pytest.raises(RequestError, match=words):
            package.load_network(source)
