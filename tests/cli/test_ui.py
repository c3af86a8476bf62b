"""`nnexp ui` hands the store to MLflow's server."""

import os

from tests.real import free_port


def test_the_stores_address_which_may_hold_a_password_is_not_among_the_servers_arguments(
    nnexp, store, monkeypatch
):
    started = []
    monkeypatch.setattr(os, "execve", lambda *how: started.append(how))
    assert nnexp("ui", "--port", str(free_port())).status == 0
    ((_, arguments, environment),) = started
    assert environment["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{store}"
    assert [text for text in arguments if "sqlite:" in text or store.name in text] == []
