"""The shipped real tables are scikit-learn's copies, number by number, and train as they are."""

import pytest
from sklearn.datasets import load_breast_cancer, load_digits, load_wine

from nnexp.config.paths import SHIPPED
from nnexp.dataset.load import load

ORIGINALS = {"breast_cancer": load_breast_cancer, "digits": load_digits, "wine": load_wine}


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_real_table_has_the_numbers_and_columns_of_its_original(configure, name):
    data, original = load(configure(f"dataset={name}").dataset), ORIGINALS[name]()
    assert data.X.tolist() == original.data.tolist()
    names = [column.replace(" ", "_").replace("/", "_") for column in original.feature_names]
    assert list(data.features) == names


@pytest.mark.parametrize(
    ("name", "classes", "of_original"),
    [
        ("breast_cancer", ("benign", "malignant"), {"benign": "benign", "malignant": "malignant"}),
        ("digits", tuple("0123456789"), {i: str(i) for i in range(10)}),
        ("wine", ("1", "2", "3"), {"class_0": "1", "class_1": "2", "class_2": "3"}),
    ],
)
def test_a_real_table_has_the_classes_of_its_original(configure, name, classes, of_original):
    data, original = load(configure(f"dataset={name}").dataset), ORIGINALS[name]()
    assert data.classes == classes
    theirs = [of_original[label] for label in original.target_names[original.target].tolist()]
    assert [classes[int(i)] for i in data.y] == theirs


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_real_table_names_its_licence_and_its_source(name):
    notes = (SHIPPED / "data" / "README.md").read_text()
    assert f"`{name}.csv`" in notes
    assert notes.count("https://doi.org/10.24432/") == len(ORIGINALS)
    assert "CC BY 4.0" in notes


def test_a_table_of_many_columns_is_described_in_one_line(configure):
    text = str(load(configure("dataset=digits").dataset))
    assert "pixel_0_0, pixel_0_1, pixel_0_2" in text
    assert "… (64 in all) -> digit (classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)" in text
