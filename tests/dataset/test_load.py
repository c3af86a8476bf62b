"""Tables: how they are read, split and centred, and how wrong files are refused."""

import numpy as np
import pytest

from nnexp.config.errors import RequestError
from nnexp.dataset.load import load
from nnexp.dataset.prepare import Split, centring, prepare
from nnexp.pipeline.artifacts import model_of
from nnexp.training.train import train


@pytest.fixture
def table(configure, tmp_path):
    """`table("a,b,y\\n1,2,0\\n…")` returns the data set of that file; features a and b, target y."""

    def loaded(text, *overrides):
        path = tmp_path / "own.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        own = ["dataset=csv", f"dataset.path='{path}'", "dataset.features=[a,b]", "dataset.target=y"]
        return load(configure(*own, *overrides).dataset)

    return loaded


def test_the_gender_table_is_the_articles_in_pounds_and_inches(configure):
    data = load(configure("dataset=gender").dataset)
    assert data.names == ("Alice", "Bob", "Charlie", "Diana")
    assert data.X.tolist() == [[133, 65], [160, 72], [152, 70], [120, 60]]
    assert data.y.tolist() == [1, 0, 0, 1]
    assert data.classes == ("M", "F")
    assert data.new_names == ("Emily", "Frank")
    assert data.X_new.tolist() == [[128, 63], [155, 68]]


@pytest.mark.parametrize(
    ("center", "first", "new"),
    [
        ("articles", [-2, -1], [-7, -3]),
        ("none", [133, 65], [128, 63]),
        ("mean", [-8.25, -1.75], [-13.25, -3.75]),
        ("standardize", [-0.525267, -0.375780], [-0.843611, -0.805242]),
    ],
)
def test_the_shift_is_learned_on_the_rows_and_applied_to_new_ones(configure, center, first, new):
    data = load(configure("dataset=gender").dataset)
    prepared = prepare(data, center, Split(), softmax=False)
    np.testing.assert_allclose(prepared.X[0], first, atol=1e-6)
    np.testing.assert_allclose((data.X_new[0] - prepared.shift) / prepared.scale, new, atol=1e-6)


def test_a_constant_column_is_not_divided_by_zero(table):
    data = table("a,b,y\n1,7,0\n2,7,1\n")
    prepared = prepare(data, "standardize", Split(), softmax=False)
    assert prepared.X.tolist() == [[-1, 0], [1, 0]]


@pytest.mark.parametrize("n", [3, 6, 7, 10, 49])
def test_a_constant_column_of_any_value_is_centred_at_it_and_not_scaled(n):
    values = np.arange(1, 1000) / 10  # the rounded mean of n times such a value is often another number
    shift, scale = centring("standardize", np.tile(values, (n, 1)), tuple(map(str, values)))
    assert shift.tolist() == values.tolist()
    assert scale.tolist() == [1.0] * len(values)


def test_new_rows_that_almost_equal_a_constant_column_have_the_same_prediction(configure, table):
    rows = "".join(f"{i % 3},0.4,{i % 2}\n" for i in range(6))
    dataset = table(f"a,b,y\n{rows}")
    config = configure("dataset=csv", "dataset.path=own.csv", "dataset.target=y", "dataset.features=[a,b]")
    ((_, trained),) = (run for progress in train(dataset, [config]) for run in progress.ended)
    model = model_of(trained, dataset)
    at, beside = model.outputs(np.array([[2, 0.4], [2, 0.4 + 1e-9]]))
    np.testing.assert_allclose(beside, at, atol=1e-8)


@pytest.mark.parametrize("spread", [1e-140, 1e-149, 1e-151, 1e-160, 1e-200, 1e-300, 5e-324])
def test_a_column_with_a_tiny_spread_is_not_constant(spread):
    column = np.array([[0.0], [spread], [2 * spread], [3 * spread]])
    shift, scale = centring("standardize", column, ("a",))
    inputs = (column - shift) / scale
    assert np.isfinite(inputs).all()
    assert len(set(inputs[:, 0])) == 4
    if spread > 1e-320:  # smaller numbers have no precision left
        np.testing.assert_allclose(inputs[:, 0], [-1.3416407865, -0.4472135955, 0.4472135955, 1.3416407865])


def test_the_spread_is_numpys(table):
    X = np.random.RandomState(0).normal(size=(50, 3)) * [1e-3, 1, 1e6] + [5, 0, -1e3]
    shift, scale = centring("standardize", X, ("a", "b", "c"))
    np.testing.assert_allclose(shift, X.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(scale, X.std(axis=0), rtol=1e-13)


def test_text_labels_are_classes_in_sorted_order(table):
    data = table("a,b,y\n1,2,no\n3,4,yes\n5,6,maybe\n7,8,no\n9,9,yes\n1,1,maybe\n")
    assert data.classes == ("maybe", "no", "yes")
    assert data.y.tolist() == [1, 2, 0, 1, 2, 0]
    assert prepare(data, "none", Split(), softmax=False).y.shape == (6, 3)


def test_a_stated_order_of_classes_is_kept(table):
    data = table("a,b,y\n1,2,no\n3,4,yes\n", "dataset.classes=[yes,no]")
    assert data.y.tolist() == [1, 0]


def test_numbers_are_a_regression_unless_they_are_listed_as_classes(table):
    text = "a,b,y\n1,2,2\n3,4,3\n5,6,7\n"
    assert table(text).classes == ()
    assert table(text, "dataset.classes=[2,3,7]").y.tolist() == [0, 1, 2]


def test_zeros_and_ones_in_any_spelling_are_classes(table):
    data = table("a,b,y\n1,2,0\n3,4,1.0\n5,6,01\n")
    assert data.classes == ("0", "1")
    assert data.y.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("cells", "classes", "y"),
    [
        # 2^53 and the next integer, which is the same double.
        (["9007199254740992", "9007199254740993"], "[9007199254740992,9007199254740993]", [0, 1]),
        (["1234", "01234"], "[1234,01234]", [0, 1]),
        (["01234", "1234"], "[1234,01234]", [1, 0]),
        (["007", "7.0", "7"], "[7,007,'7.0']", [1, 2, 0]),
        (["1.0", "2.0"], "[1.0,2.0]", [0, 1]),
        (["1.10", "2.50"], "[2.50,1.10]", [1, 0]),  # Hydra reads these as 2.5 and 1.1
        (["2.0", "3.0"], "[2,3]", [0, 1]),
        (["+1", "-1"], "[+1,-1]", [0, 1]),
        (["1e3", "2"], "[2,1e3]", [1, 0]),
        (["True", "False"], "[True,False]", [0, 1]),
        (["true", "false"], "[false,true]", [1, 0]),
        (["none", "NA", "-"], "[none,NA,-]", [0, 1, 2]),
        (["x", "1.0"], "[x,1.0]", [0, 1]),
        (["1e-99999999999999999999999", "x"], "[x,'1e-99999999999999999999999']", [1, 0]),
    ],
)
def test_labels_are_text_and_are_listed_as_the_table_writes_them(table, cells, classes, y):
    text = "a,b,y\n" + "".join(f"{i},{i},{cell}\n" for i, cell in enumerate(cells))
    assert table(text, f"dataset.classes={classes}").y.tolist() == y


@pytest.mark.parametrize(
    ("cells", "classes", "words"),
    [
        (["1234", "5", "01234"], "[1234,5]", "row 3: '01234' and '1234' are two labels"),
        (
            ["9007199254740993", "5"],
            "[9007199254740992,5]",
            "row 1: '9007199254740993' is not one of dataset.classes=9007199254740992,5; quotes keep",
        ),
        (["5", "7.0"], "[5,7,007]", "row 2: '7.0' is not one of dataset.classes=5,7,007"),
        (["True", "true", "false"], "[true,false]", "row 2: 'true' and 'True' are two labels"),
        (["Yes", "no"], "[yes,no]", "row 1: 'Yes' is not one of dataset.classes=yes,no"),
    ],
)
def test_two_labels_never_become_one_class(table, cells, classes, words):
    text = "a,b,y\n" + "".join(f"{i},{i},{cell}\n" for i, cell in enumerate(cells))
    with pytest.raises(RequestError) as refused:
        table(text, f"dataset.classes={classes}")
    assert words in str(refused.value)


def test_a_byte_order_mark_quotes_blanks_and_empty_lines_are_read(table):
    data = table(b'\xef\xbb\xbfa, b ,y\r\n"1",2,0\r\n\r\n3, 4,1\r\n')
    assert data.X.tolist() == [[1, 2], [3, 4]]


def test_the_data_hash_is_of_the_files_bytes(table, configure):
    assert table("a,b,y\n1,2,0\n3,4,1\n").sha256 != table("a,b,y\n1,2,0\n3,4,1").sha256
    gender = configure("dataset=gender").dataset
    assert load(gender).sha256 == load(gender).sha256


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("a,b,y\n", "no rows below the header"),
        (
            "a,b,y\n1,,0\n2,3,1\n",
            "column 'b', row 1: the value is missing (''): fill it in or delete the row",
        ),
        ("a,b,y\n1,2,0\n2,NA,1\n", "column 'b', row 2: the value is missing"),
        ("a,b,y\n1,2,0\n2,3,\n", "column 'y', row 2: the value is missing"),
        ("a,b,y\n1,2,u\n2,3,none\n", "if it is a label, list it in dataset.classes"),
        ("a,b,y\n1,2,0\n2,tall,1\n", "column 'b', row 2: 'tall' is not a finite number"),
        ("a,b,y\n1,2,0\n2,tall,1\n", "make a column of 0 and 1 for each, or list the other columns in"),
        ("a,b,y\n1,inf,0\n2,3,1\n", "column 'b', row 1: 'inf' is not a finite number"),
        ("a,b,y\n1,1e999,0\n2,3,1\n", "column 'b', row 1: '1e999' is not a finite number"),
        ("a,b,y\n1,1_000,0\n2,3,1\n", "column 'b', row 1: '1_000' is not a finite number"),
        ("a,c,y\n1,2,0\n2,3,1\n", "no column 'b'; it has a, c, y"),
        ("a,b,z\n1,2,0\n2,3,1\n", "no column 'y'; it has a, b, z"),
        ("a,b,y\n1,2,yes\n2,3,yes\n", "one class only, 'yes', in 2 rows"),
        ("a,b,y\n1,2,1\n", "one class only, '1', in 1 row:"),
        ("a,b,b,y\n1,2,2,0\n", "the header has the column 'b' 2 times"),
        ("a;b;y\n1;2;0\n", "separated by semicolons"),
        ("a\tb\ty\n1\t2\t0\n", "separated by tabs"),
        ("a,b,y\n1,2,0\n1,2,0,5\n", "row 2 has 4 values where the header has 3 columns"),
        ("a,b,y\n1,2\n", "row 1 has 2 values where the header has 3 columns"),
        (b"a,b,y\n1,2,0\n2,3,1\n4,\xff\xfe,1\n", "line 4 is not UTF-8"),
        ('a,b,y\n1,"2,0\n', "not a CSV file"),
        ("a,b,y\n1,2,no\n3,4,5\n", "column 'y', row 1: 'no' is text where other rows have numbers"),
        ("a,b,y\n1,2,u\n3,4,v\n5,6,w\n", "every row has a different label"),
    ],
)
def test_a_wrong_file_is_refused_with_the_file_the_column_and_the_row(table, text, words):
    with pytest.raises(RequestError) as refused:
        table(text)
    assert words in str(refused.value)
    assert "own.csv" in str(refused.value)


def test_features_default_to_all_columns_except_the_target_and_the_rows_names(table):
    text = "name,b,y,a\np,1,0,2\nq,3,1,4\n"
    data = table(text, "dataset.features=null")
    assert (data.features, data.X.tolist(), data.names) == (("b", "a"), [[1, 2], [3, 4]], ("p", "q"))
    assert data.X.tolist() == table(text, "dataset.features=[b,a]").X.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,y\np,0\nq,1\n", "there is no column to learn from beside the target 'y'"),
        (",a,y\n0,1,0\n1,2,1\n", "column 1 is called '': name it, or list the columns"),
        ('"a\nb",y\n0,1\n1,0\n', "column 1 is called 'a\\nb'"),
        ("a,b,z\n1,x,0\n2,3,1\n", "no column 'y'; it has a, b, z"),
        (",".join(f"c{i}" for i in range(100)) + "\n" + "1," * 99 + "1\n", "c29, … (100 in all)"),
    ],
)
def test_a_table_whose_columns_cannot_all_be_features_is_refused(table, text, words):
    with pytest.raises(RequestError) as refused:
        table(text, "dataset.features=null")
    assert words in str(refused.value)


@pytest.mark.parametrize("center", ["mean", "standardize"])
def test_numbers_too_large_to_square_are_refused(table, center):
    data = table("a,b,y\n1,1e308,0\n2,-1e308,1\n")
    with pytest.raises(RequestError, match="column 'b' has values beyond 1e"):
        prepare(data, center, Split(), softmax=False)


def test_a_label_that_is_not_listed_is_refused(table):
    with pytest.raises(RequestError, match=r"row 2: 'b' is not one of dataset\.classes=a,c"):
        table("a,b,y\n1,2,a\n3,4,b\n", "dataset.classes=[a,c]")


def test_a_missing_file_is_refused(configure, tmp_path):
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        load(
            configure(
                "dataset=csv", "dataset.path=gone.csv", "dataset.features=[a]", "dataset.target=y"
            ).dataset
        )
