"""A recorded config.yaml: what nnexp wrote is read back, anything else is refused and never followed."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nnexp.config.errors import RequestError
from nnexp.config.recorded import MAX_BYTES, plain_values

# Without control characters, which no key allows and PyYAML does not always read back.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
)


@given(st.dictionaries(TEXT, st.one_of(PLAIN, st.lists(PLAIN), st.dictionaries(TEXT, PLAIN))))
def test_a_written_configuration_is_read_back(values):
    content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    assert plain_values(content.encode(), "config.yaml") == values


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xff", "not UTF-8"),
        (b"a: \0", "control characters"),
        (b"[1]", "must be a mapping"),
        (b"seed: 1\n---\nseed: 2", "more than one document"),
        (b"seed: 1\nseed: 2", "line 2: the key 'seed' occurs twice"),
        (b"a: &x 1\nb: *x", "anchors"),
        (b"a: !!python/object/apply:os.system [id]", "tags"),
        (b"<<: {seed: 1}", "is not a value of a configuration: '<<'"),
        (b"a: 2020-01-01", "is not a value of a configuration"),
        (b"a: 0x10", "is not a value of a configuration"),
        (b"a: 1:30", "is not a value of a configuration"),
        (b"a: .inf", "is not a value of a configuration"),
        (b"a: " + b"9" * 100_000, "is not a value of a configuration"),
        (b"1: a", "a key must be text"),
        (b"[" * 100_000, "nested"),
        (b"- " * 100_000, "nested"),
        (b"a: " + b"x" * MAX_BYTES, "at most"),
    ],
)
def test_yaml_that_nnexp_does_not_write_is_refused_with_its_place(content, words):
    with pytest.raises(RequestError, match=r"^run x: ") as refused:
        plain_values(content, "run x")
    assert words in str(refused.value)
    assert len(str(refused.value)) < 400
