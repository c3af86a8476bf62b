"""A user's own configuration: data sets, experiments and defaults in conf/ or --config-dir, read first."""

import os

import pytest
import yaml
from hydra import compose, initialize_config_dir

from nnexp.cli.help import help_text
from nnexp.config import paths
from nnexp.config.compose import plain_values
from nnexp.config.errors import RequestError
from nnexp.config.groups import find_option, options, options_with
from nnexp.config.paths import CHECKOUT, CONF, config_dirs, default_store, searching
from nnexp.config.request import split
from nnexp.dataset.load import locate
from tests.conftest import FLOWERS, QUICK

SHIPPED_EXPERIMENTS = sorted(path.stem for path in (CHECKOUT / "experiments").glob("*.yaml"))
SOFTMAX = ["output_activation=softmax", "loss=cross_entropy"]


@pytest.fixture
def write(tmp_path):
    """`write("conf/config.yaml", "epochs: 3")` in the working directory."""

    def written(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return written


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return split(plain_values(compose("config", list(overrides))))[0]


def test_only_the_shipped_configuration_is_read_if_there_is_no_conf():
    assert config_dirs() == [CONF]


def test_conf_is_read_before_the_shipped_configuration_and_config_dir_before_both(tmp_path, write):
    write("conf/config.yaml", "")
    write("named/config.yaml", "")
    with searching("named"):
        assert config_dirs() == [tmp_path / "named", tmp_path / "conf", CONF]
    assert config_dirs() == [tmp_path / "conf", CONF]


def test_the_checkout_s_own_conf_is_read_once(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    assert config_dirs() == [CONF]


def test_the_default_store_is_in_the_checkout_or_else_in_the_working_directory(tmp_path, monkeypatch):
    assert default_store() == CHECKOUT / "mlflow.db"
    monkeypatch.setattr(paths, "CHECKOUT", None)
    assert default_store() == tmp_path / "mlflow.db"


def test_an_own_data_set_needs_only_a_path_and_a_target(nnexp, store, tmp_path, write):
    write("flowers.csv", FLOWERS)
    write("conf/dataset/flowers.yaml", "path: flowers.csv\ntarget: species\n")
    assert options("dataset")[-4:] == ["line", "or", "wine", "xor"]
    assert "flowers" in options("dataset")
    config = composed("dataset=flowers", *SOFTMAX).dataset
    assert (config.name, config.path, config.center) == ("flowers", f"{tmp_path}/flowers.csv", "standardize")
    ended = nnexp("train", "dataset=flowers", *SOFTMAX, *QUICK)
    assert ended.status == 0, ended.err
    run_id = ended.out.split("recorded as ")[1].split()[0]
    assert nnexp("rerun", run_id).status == 0


def test_a_run_of_an_own_data_set_equals_that_of_csv_and_is_rerun_from_any_directory(
    nnexp, store, tmp_path, write, monkeypatch
):
    write("flowers.csv", FLOWERS)
    write("conf/dataset/flowers.yaml", "path: flowers.csv\ntarget: species\n")
    run_id = nnexp("train", "dataset=flowers", *SOFTMAX, *QUICK).out.split("recorded as ")[1].split()[0]
    typed = ["dataset=csv", "dataset.path=flowers.csv", "dataset.target=species"]
    assert f"recorded as {run_id}" in nnexp("train", *typed, *SOFTMAX, *QUICK).out
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    ended = nnexp("rerun", run_id)
    assert (ended.status, "copy" in ended.out + ended.err) == (0, False)


def test_paths_in_config_dir_start_from_its_parent_directory(nnexp, store, tmp_path, write):
    write("other/flowers.csv", FLOWERS)
    write("other/conf/dataset/flowers.yaml", "path: flowers.csv\ntarget: species\n")
    ended = nnexp("train", "--config-dir", "other/conf", "dataset=flowers", *SOFTMAX, *QUICK)
    assert ended.status == 0, ended.err
    ended = nnexp("train", "dataset=flowers")
    assert (ended.status, "unknown dataset 'flowers'" in ended.err) == (2, True)


def test_a_typed_path_starts_from_the_working_directory_for_any_data_set(tmp_path):
    assert locate("own.csv", "gender") == tmp_path / "own.csv"
    assert locate("data/gender.csv", "gender") == CHECKOUT / "data" / "gender.csv"
    assert locate("data/gender.csv", "csv") == tmp_path / "data" / "gender.csv"


def test_an_own_data_set_may_replace_a_shipped_one(tmp_path, write):
    write("conf/dataset/xor.yaml", "path: data/xor.csv\ntarget: y\n")
    assert composed("dataset=xor").dataset.path == f"{tmp_path}/data/xor.csv"
    assert find_option("dataset", "xor") == tmp_path / "conf" / "dataset" / "xor.yaml"


def test_own_defaults_state_only_differences_and_those_of_config_dir_win(write):
    write("conf/config.yaml", "optimizer: adam\nlearning_rate: 0.5\nepochs: 7\ninit: {scale: 3}\n")
    write("named/config.yaml", "epochs: 8\ninit: {name: he}\n")
    config = composed()
    assert (config.optimizer.name, config.learning_rate, config.epochs) == ("adam", 0.5, 7)
    assert (config.init.name, config.init.options, config.seed) == ("normal", (("scale", 3.0),), 0)
    with searching("named"):
        assert (composed().epochs, composed().init.name, composed("epochs=9").epochs) == (8, "he", 9)
        assert composed("optimizer=sgd").optimizer.name == "sgd"


def test_own_defaults_may_be_a_copy_of_the_shipped_ones_or_choose_options_in_a_defaults_list(write):
    shipped = (CONF / "config.yaml").read_text()
    write("conf/config.yaml", shipped.replace("dataset: gender", "dataset: xor"))
    assert composed().dataset.name == "xor"
    write("conf/config.yaml", "defaults: [optimizer: adam, override hydra/launcher: basic, _self_]\n")
    assert composed().optimizer.name == "adam"


EXPERIMENT = """\
# Which seed?
optimizer: adam
dataset: {name: csv, path: flowers.csv, target: species}
output_activation: softmax
loss: cross_entropy
epochs: 5
figures: false
hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["conf/experiment", "experiments"])
def test_an_own_experiment_chooses_options_and_runs(nnexp, store, write, place):
    write("flowers.csv", FLOWERS)
    write(f"{place}/own.yaml", EXPERIMENT)
    config = composed("experiment=own")
    assert (config.optimizer.name, dict(config.optimizer.options)["beta1"]) == ("adam", 0.9)
    assert config.dataset.name == "csv"
    assert composed("experiment=own", "optimizer=momentum").optimizer.name == "momentum"
    ended = nnexp("train", "experiment=own")
    assert (ended.status, "2 runs: 2 new" in ended.err) == (0, True), ended.err
    ended = nnexp("train", "experiment=own", "-m", "optimizer=sgd,adam")
    assert (ended.status, "4 runs: 2 done, 2 new" in ended.err) == (0, True), ended.err


def test_an_experiment_sets_a_group_s_numbers_beside_its_choice(write):
    write("conf/experiment/own.yaml", "optimizer: {name: adam, beta1: 0.5}\n")
    assert dict(composed("experiment=own").optimizer.options) == {
        "beta1": 0.5,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": 0.0,
    }


def test_shipped_experiments_are_listed_beside_own_ones(write):
    write("experiments/own.yaml", "epochs: 3\n")
    assert options("experiment") == sorted([*SHIPPED_EXPERIMENTS, "own"])


def test_the_question_of_a_sweep_is_the_comment_of_an_own_experiment(nnexp, store, write):
    from mlflow import MlflowClient

    write("flowers.csv", FLOWERS)
    write("conf/experiment/own.yaml", EXPERIMENT)
    sweep_id = nnexp("train", "experiment=own").out.split("as sweep ")[1].split()[0]
    note = MlflowClient(f"sqlite:///{store}").get_run(sweep_id).data.tags["mlflow.note.content"]
    assert note.startswith("**Question:** Which seed?")


def test_help_lists_own_options_and_their_directories(nnexp, write):
    write("conf/dataset/flowers.yaml", "path: flowers.csv\ntarget: species\n")
    write("named/experiment/own.yaml", "epochs: 3\n")
    write("named/config.yaml", "learning_rate: 0.75\n")
    page = nnexp("train", "--help", "--config-dir=named").out
    assert "flowers" in page
    assert "learning_rate=0.75" in page
    assert ", ".join(sorted([*SHIPPED_EXPERIMENTS, "own"])) in " ".join(page.split())
    assert "Read first, before what is shipped: named, conf" in page
    assert "learning_rate=0.1" in help_text()


def test_options_with_finds_own_options(write):
    write("conf/init/small.yaml", "name: normal\nscale: 0.1\n")
    assert "small" in options_with("init.scale")
    config = composed("init=small").init
    assert (config.name, config.options) == ("normal", (("scale", 0.1),))


WRONG = {
    "conf/config.yaml|learnin_rate: 1": "conf/config.yaml: unknown key 'learnin_rate'. Did you mean learn",
    "conf/config.yaml|optimizer: adm": "conf/config.yaml: unknown optimizer 'adm'. Did you mean adam",
    "conf/config.yaml|epochs: 0": "epochs=0: must be a whole number >= 1",
    "conf/config.yaml|epochs: [": "conf/config.yaml: line 2, column 1: expected",
    "conf/config.yaml|- 3": "conf/config.yaml: must be a mapping",
    "conf/config.yaml|three": "conf/config.yaml: unknown key 'three'",
    "conf/config.yaml|epochs: 1\nepochs: 2": "conf/config.yaml: line 2, column 1: found duplicate key epochs",
    "conf/config.yaml|defaults: [db: mysql]": "conf/config.yaml: defaults: {'db': 'mysql'}: must choose",
    "conf/config.yaml|defaults: 3": "conf/config.yaml: defaults: must be a list",
    "conf/config.yaml|hydra: {callbacks: {x: {_target_: os.system}}}": "hydra: a file may set launcher, mode",
    "conf/config.yaml|hydra: {launcher: {_target_: os.system}}": "_target_ names code to import",
    "conf/dataset/gender.yaml|paht: x.csv": "conf/dataset/gender.yaml: unknown key 'dataset.paht'",
    "conf/dataset/gender.yaml|target: y": "dataset.path is not given",
    "conf/dataset/gender.yaml|path: gone.csv\ntarget: y": "gone.csv: cannot be read",
    "conf/optimizer/sgd.yaml|name: fast": "unknown optimizer 'fast'",
    "conf/experiment/own.yaml|optimizer: adam,sgd": "write the ranges of a sweep under hydra: sweeper:",
    "conf/experiment/own.yaml|optimizer: [adam]": "conf/experiment/own.yaml: unknown optimizer",
    "conf/experiment/own.yaml|optimizer: {beta3: 1}": "own.yaml: unknown key 'optimizer.beta3'",
    "experiments/own.yaml|lr: 1": "experiments/own.yaml: unknown key 'lr'. Did you mean learning_rate",
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_configuration_file_is_refused_in_a_line_that_names_it(nnexp, tmp_path, write, case):
    name, text = case.split("|")
    path = write(name, text + "\n")
    typed = ["experiment=own"] if name.endswith("own.yaml") else []
    for arguments in ([], ["-m", "seed=1,2"], ["--cfg", "job"]):
        if arguments[:1] == ["--cfg"] and WRONG[case].startswith(("epochs", "dataset.", "gone", "unknown")):
            continue  # it composes; its values are checked when it runs
        ended = nnexp("train", *typed, *arguments)
        assert (ended.status, ended.out) == (2, "")
        assert WRONG[case] in ended.err
        assert len(ended.err.splitlines()) <= 2
    path.unlink()
    assert not [found for found in tmp_path.rglob("*") if found.is_file()]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--config-dir", "gone"], "--config-dir gone: is not a directory"),
        (["--config-dir"], "--config-dir: name a directory"),
        (["--config-dir="], "--config-dir: name a directory"),
        (["-cd", "."], "did you mean ./conf?"),
    ],
)
def test_a_directory_that_holds_no_configuration_is_refused(nnexp, write, typed, words):
    write("conf/config.yaml", "epochs: 3\n")
    ended = nnexp("train", *typed)
    assert (ended.status, words in ended.err) == (2, True), ended.err


def test_files_for_hydra_itself_in_a_directory_are_not_read(nnexp, write, tmp_path):
    write("conf/config.yaml", "")
    write("conf/hydra/launcher/mine.yaml", f"_target_: os.system\ncommand: touch {tmp_path}/canary\n")
    ended = nnexp("train", "-m", "hydra/launcher=mine", "seed=1,2")
    assert (ended.status, (tmp_path / "canary").exists()) == (2, False)


def test_a_file_with_control_characters_in_its_name_is_not_an_option(write):
    for name in ("\x1b[31mred", "a\nb", "\u202egnp", ".hidden"):
        write(f"conf/dataset/{name}.yaml", "path: x.csv\ntarget: y\n")
    shipped = {path.stem for path in (CONF / "dataset").glob("*.yaml")}
    assert set(options("dataset")) == shipped


def test_completion_offers_own_options(nnexp, write, monkeypatch):
    write("conf/dataset/flowers.yaml", "path: flowers.csv\ntarget: species\n")
    monkeypatch.setenv("COMP_LINE", "nnexp train dataset=f")
    assert nnexp("-sc", "query=bash").out.split() == ["dataset=flowers"]


def test_another_hydra_program_does_not_see_our_directories(write, tmp_path):
    write("conf/config.yaml", "epochs: 3\n")
    write("theirs/config.yaml", "db: mysql\n")
    with initialize_config_dir(str(tmp_path / "theirs"), version_base="1.3"):
        assert compose("config") == {"db": "mysql"}


def test_every_shipped_file_is_found_once():
    assert options("experiment") == SHIPPED_EXPERIMENTS
    written = yaml.safe_load((CONF / "dataset" / "gender.yaml").read_text())
    assert composed().dataset.path == written["path"]
    assert os.listdir(CONF).count("experiment") == 0


def test_a_config_dir_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RequestError, match="is not a directory"), searching(str(tmp_path / "gone")):
        pass
