"""The progress bar of a notebook."""

from types import SimpleNamespace

import IPython
import IPython.display
import pytest

from nnexp.pipeline import progress
from nnexp.pipeline.progress import Meter


@pytest.fixture
def shown(monkeypatch):
    """The list of what a notebook shows, one update after another."""
    texts = []

    def put(data, raw, display_id=False):
        assert raw
        texts.append(data["text/html"])
        return SimpleNamespace(update=put)

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(IPython.display, "display", put)
    return texts


def test_a_notebook_shows_a_bar_that_disappears_at_the_end(shown, monkeypatch):
    monkeypatch.setattr(progress, "NOTEBOOK_SECONDS", 0)
    with Meter("a <b>", 10, "runs") as meter:
        meter.update(4, "loss 0.1")
    assert shown[0].startswith('a &lt;b&gt; <progress value="4" max="10"></progress> 4/10 runs, ')
    assert shown[0].endswith("runs/s, loss 0.1")
    assert shown[1:] == [""]


def test_short_work_shows_no_bar(shown):
    with Meter("a", 10, "runs") as meter:
        meter.update(4)
    assert shown == []
