"""Wrong requests: each ends with status 2 and a plain message, and nothing is recorded."""

import pytest

TABLE = "dataset=csv dataset.path=own.csv dataset.features=[a,b] dataset.target=y"

# Arguments of `nnexp train`, each with a text that its error must contain.
WRONG = {
    # values
    "name=''": "at most 250 characters",
    f"name={'x' * 251}": "at most 250 characters",
    "name=[a]": "at most 250 characters",
    f"question={'x' * 2001}": "at most 2,000 characters",
    "tags=blue": "tags=blue: must be {name: text, …}",
    "tags={mlflow.runName:x}": "neither mlflow. nor nnexp.",
    "tags={nnexp.run_key:x}": "neither mlflow. nor nnexp.",
    "tags={a:[1]}": "tags=",
    "tags={a:{b:c}}": "tags=",
    "tags.a=1": "unknown key 'tags.a'",
    "learning_rate=0": "finite number, > 0",
    "learning_rate=-0.1": "finite number, > 0",
    "learning_rate=nan": "learning_rate=nan",
    "learning_rate=inf": "learning_rate=inf",
    "learning_rate=-inf": "finite number",
    "learning_rate=1E400": "finite number",
    "learning_rate=fast": "learning_rate=fast",
    "learning_rate=null": "learning_rate=null",
    "learning_rate=": "learning_rate=",
    "learning_rate=[0.1]": "finite number",
    "learning_rate=true": "finite number",
    "learning_rate={a:1}": "finite number",
    "learning_rate=???": "learning_rate is not given",
    "epochs=0": "whole number >= 1",
    "epochs=-5": "whole number >= 1",
    "epochs=10.5": "whole number >= 1",
    "epochs=many": "whole number >= 1",
    "epochs=nan": "whole number >= 1",
    "epochs=1e30": "whole number >= 1",
    "batch_size=0": "or full",
    "batch_size=all": "or full",
    "batch_size=5": "4 training rows of gender",
    "seed=-1": "whole number >= 0",
    "seed=4294967296": "at most 4294967295",
    "seed=1.5": "whole number",
    "shuffle=yes": "true or false",
    "shuffle=1": "true or false",
    "figures=maybe": "true or false",
    "validation_fraction=1": "< 1",
    "validation_fraction=-0.1": ">= 0",
    "validation_fraction=0.9": "leaves none to train on",
    "test_fraction=1": "test_fraction=1: must be a finite number, >= 0, < 1",
    "test_fraction=0.9": "test_fraction=0.9 of the 4 rows of gender leaves none to train on",
    "test_fraction=0.5 validation_fraction=0.5": "validation_fraction=0.5 of the 4 rows of gender leave",
    "folds=1": "folds=1: must be a whole number >= 2, or 0",
    "folds=5": "folds=5 of the 4 rows of gender: must be at most 4",
    "folds=3 test_fraction=0.5": "of which 2 are test rows: must be at most 2",
    "folds=2 validation_fraction=0.5": "validation_fraction=0.5 does not go with folds=2",
    "folds=3 fold=3": "fold=3 with folds=3: must be 0 to 2",
    "fold=1": "fold=1 with folds=0: must be 0",
    "-m folds=4 fold=range(5)": "point 5 of 5: fold=4 with folds=4: must be 0 to 3",
    "folds=4 batch_size=4": "more than the 3 training rows",
    "split_seed=4294967296": "at most 4294967295",
    "patience=-1": "patience=-1: must be a whole number >= 0",
    "patience=3": "set validation_fraction or folds, or patience=0",
    "optimizer.weight_decay=-0.1": "optimizer.weight_decay=-0.1: must be a finite number, >= 0",
    "weight_decay=0.1": "Did you mean optimizer.weight_decay?",
    "early_stopping=5": "Did you mean patience?",
    "test_size=0.2": "Did you mean test_fraction?",
    "n_splits=5": "Did you mean folds?",
    "log_every=0": "whole number >= 1",
    "weights_every=-1": "whole number >= 0",
    "hidden=2": "a list of whole numbers >= 1; [] for none; write hidden=[2]",
    "hidden=2,4": "hidden=[2],[4] with -m sweeps over 2, hidden=[2,4] is one",
    "-m hidden=2,4": "hidden=2,4: each value must be a list: hidden=[2],[4] with -m",
    "-m hidden=range(2,4)": "point 1 of 2: hidden=2: must be a list of whole numbers",
    "hidden=[2,0]": "a list of whole numbers",
    "hidden=[2,-1]": "a list of whole numbers",
    "hidden=[2,two]": "a list of whole numbers",
    "hidden=[2.5]": "a list of whole numbers",
    "hidden=[nan]": "a list of whole numbers",
    "hidden=[[2]]": "a list of whole numbers",
    "hidden=[100000,100000]": "weights: at most",
    "epochs=9223372036854775807": "take a larger log_every",
    "epochs=1e18 log_every=1000": "take a larger log_every",
    "epochs=100000000 log_every=1000 weights_every=1": "take a larger weights_every",
    "learning_rate=" + "9" * 5000: "limit",
    "activation=softmax": "sigmoid, tanh, relu, identity",
    "activation=[sigmoid]": "sigmoid, tanh, relu, identity",
    "output_activation=step": "softmax",
    "loss=mae": "mse, bce, cross_entropy",
    "init.scale=0": "finite number, > 0",
    "init.scale=nan": "finite number, > 0",
    "optimizer=momentum optimizer.momentum=1": "< 1",
    "optimizer=adam optimizer.beta2=-1": ">= 0",
    "dataset.center=median": "articles, mean, none, standardize",
    "experiment_name=../x": "a plain name",
    "experiment_name=a/b": "a plain name",
    "experiment_name=": "a plain name",
    "tracking_uri=ftp://somewhere": "sqlite:///FILE",
    "tracking_uri=mlflow.db": "sqlite:///FILE",
    "tracking_uri='sqlite:///what?.db'": "without ?",
    "tracking_uri=sqlite:////no/such/directory/mlflow.db": "there is no directory",
    # keys and groups
    "learnig_rate=1": "Did you mean learning_rate?",
    "lr=0.1": "unknown key 'lr'. Did you mean learning_rate?",
    "layers=[3]": "Did you mean hidden?",
    "beta1=0.5": "Did you mean optimizer.beta1?",
    "+bogus=1": "unknown key 'bogus'",
    "++epoch=1": "Did you mean epochs?",
    "~epochs": "epochs is not given",
    "~nothing": "unknown key 'nothing'",
    "dataset.centre=none": "Did you mean dataset.center?",
    "init=constant init.value=inf": "a finite number",
    "init=constant init.ulps=-1": "a whole number >= 0",
    "init=constant init.ulps=1.5": "a whole number >= 0",
    "init.scal=2": "Did you mean init.scale?",
    "+init.shape=2": "init.shape",
    "optimizer.beta1=0.5": "has no such key: choose one that has it, optimizer=adam",
    "-m executor.workers=2 seed=1,2": "executor.workers: the chosen executor has no such key",
    "-m optimizer=sgd,momentum optimizer.beta1=0.5,0.9": "choose one that has it, optimizer=adam",
    "dataset.classes.more=1": "Did you mean dataset.classes?",
    "hidden.7=1": "write the whole value, hidden=",
    "init.scale.0=1": "write the whole value, init.scale=",
    "experiment_name.x=1": "Did you mean experiment_name?",
    "dataset=genderr": "Did you mean gender?",
    "init=glorot": "Known: constant, he, normal, ones, uniform, xavier, zeros",
    "optimizer=rmsprop": "Known: adam, adamw, momentum, sgd",
    "experiment=nothing": "unknown experiment 'nothing'",
    "executor=processes executor.workers=1e18": "at most 4096",
    "init=" + "x" * 300: "unknown init 'xxx",
    "-m dataset=gender," + "x" * 300: "unknown dataset 'xxx",
    "init='\0'": "unknown init",
    "dataset=null": "unknown dataset",
    "init.name=magic": "unknown init 'magic'",
    "hydra.nothing=1": "unknown key 'hydra.nothing'",
    # combinations
    "loss=cross_entropy output_activation=identity": "needs output_activation=softmax",
    "loss=cross_entropy": "needs output_activation=softmax",
    "loss=bce output_activation=tanh": "needs output_activation=sigmoid",
    "dataset=line": "use output_activation=identity",
    "dataset=line output_activation=softmax loss=cross_entropy": "is a number",
    "dataset=xor dataset.center=articles": "articles' table",
    "init=ones init.scale=2": "init.scale",
    # syntax
    "learning_rate": "write key=value",
    "learning_rate 0.1": "write key=value",
    "=3": "write key=value",
    "hidden=[2": "cannot read",
    "seed=${nothing}": "seed: Interpolation key 'nothing' not found",
    "experiment_name=é🎉": "in quotes within quotes",
    "learning_rate=0.1,0.2": "add -m",
    "seed=range(1,3)": "add -m",
    "--bogus": "--bogus",
    # sweeps
    "-m learning_rate=0.1,-1": "point 2 of 2: learning_rate=-1",
    "-m seed=1,2 batch_size=1,9": "batch_size=9",
    "-m dataset=gender,nothing": "unknown dataset",
    "-m seed=interval(1,3)": "interval",
    "-m seed=range(0)": "one of its ranges is empty",
    "--multirun --cfg job": "Only one of",
    "-m experiment_name=a,b": "must be the same for all points",
    # own tables
    "dataset=csv": "dataset.path is not given",
    "dataset=csv dataset.path=own.csv": "dataset.target is not given: it must be one of the columns of own",
    "dataset=csv dataset.path=gone.csv": "gone.csv: cannot be read",
    "dataset=csv dataset.path=gone.csv dataset.features=[a] dataset.target=y": "cannot be read",
    "dataset=csv dataset.path=. dataset.features=[a] dataset.target=y": "cannot be read",
    f"{TABLE} dataset.features=[a,c]": "no column 'c'",
    f"-m {TABLE} dataset.features=a,b": "dataset.features=[a],[b] with -m",
    f"{TABLE} dataset.features=[]": "a list of column names",
    f"{TABLE} dataset.features=[a,a]": "twice",
    f"{TABLE} dataset.features=[a,y]": "also one of dataset.features",
    f"{TABLE} dataset.target=name": "every row has a different label",
    f"{TABLE} dataset.features=[a,name]": "column 'name', row 1: 'p' is not a finite number",
    f"{TABLE} dataset.classes=[0]": "two or more labels",
    f"{TABLE} dataset.classes=[0,2]": "row 2: '1' is not one of",
    f"{TABLE} dataset.new_rows=gone.csv": "cannot be read",
}


@pytest.mark.parametrize("typed", WRONG, ids=WRONG)
def test_a_wrong_request_is_refused_in_plain_words_and_records_nothing(nnexp, tmp_path, typed):
    (tmp_path / "own.csv").write_text("name,a,b,y\np,1,2,0\nq,3,4,1\nr,5,6,1\n")
    before = sorted(tmp_path.iterdir())
    ended = nnexp("train", *typed.split(" "))
    assert ended.status == 2
    assert WRONG[typed] in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert typed.startswith("--") or len(ended.err.splitlines()) <= 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("summarize --by nothing", "unknown param in --by 'nothing'"),
        ("summarize --by lr", "unknown param in --by 'lr'. Did you mean learning_rate?"),
        ("summarize --metric acc", "unknown metric 'acc'. Did you mean accuracy?"),
        ("summarize --metric nothing", "unknown metric 'nothing'"),
        ("summarize --over nothing", "unknown param in --over"),
        ("summarize --where learning_rate>", "--where"),
        ("summarize --where nothing==1", "--where"),
        ("summarize --where seed", "true or false"),
        ("summarize --experiment nothing", "unknown experiment 'nothing'"),
        ("summarize --sweep nothing", "no sweep 'nothing' in this store"),
        ("summarize --sweep last", "there is no sweep in this store"),
        ("list --experiment nothing", "unknown experiment 'nothing'"),
        ("list --number 0", "Invalid value"),
        ("list --tracking-uri mlflow.db", "tracking_uri=mlflow.db: must be sqlite:///FILE"),
        ("show last --tracking-uri sqlite:///gone.db", "no store at"),
        ("summarize --format xml", "Invalid value"),
        ("summarize --out /no/such/place.csv", "cannot be written"),
        ("summarize --out s.json --format csv", "s.json: the name promises json, but --format says csv"),
        ("summarize --out s.xlsx", "--out s.xlsx: the name must end in .csv, .json, .md, .txt"),
        ("predict nothing rows.csv --out p.MD --format json", "p.MD: the name promises markdown"),
        ("report --out r.pdf", "--out r.pdf: the name must end in .html"),
        ("bundle nothing --out b.tar", "--out b.tar: the name must end in .zip"),
        ("summarize --plot summary.xls", "--plot summary.xls: the name must end in .png, .svg, .pdf"),
        ("summarize --plot summary", "must end in .png"),
        ("summarize --plot /no/such/place.png", "cannot be written"),
        ("summarize --nothing", "No such option"),
        ("show nothing", "no run 'nothing'"),
        ("show", "Missing argument"),
        ("predict nothing rows.csv", "no run 'nothing'"),
        ("nothing", "No such command"),
        ("ui --port 0", "Invalid value"),
    ],
)
def test_a_wrong_query_is_refused_in_plain_words(nnexp, store, typed, words):
    assert nnexp("train", "epochs=1", "figures=false", "model=false").status == 0
    ended = nnexp(*typed.split(" "))
    assert ended.status == 2
    assert words in ended.err
    assert "Traceback" not in ended.err


def test_a_query_without_a_store_does_not_make_one(nnexp, tmp_path):
    for typed in (["list"], ["summarize"], ["show", "x"], ["show", "last"], ["predict", "x", "y.csv"]):
        ended = nnexp(*typed)
        assert ended.status == 2
        assert "no store at" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_printed_with_hydra_full_error(nnexp, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ended = nnexp("train", "epochs=0")
    assert ended.status == 2
    assert "Traceback" in ended.err
