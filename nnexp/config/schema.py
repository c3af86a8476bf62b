"""What a recorded config.yaml says, whichever schema it was written in: as a validated configuration.

The schema is raised, and a migration added, whenever what config.yaml holds changes its form or its meaning:
a new key too, as records of before lack it. No migration is ever removed; tests/records has runs of every
schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nnexp.config.errors import RequestError
from nnexp.config.recorded import plain_values
from nnexp.config.run import RunConfig
from nnexp.config.text import shortened

SCHEMA = 2
# From this schema on predictions, too, have the same bits everywhere; before, they were NumPy's `@`.
EXACT_PREDICTIONS = 2


@dataclass(frozen=True)
class RecordedConfig:
    """A recorded configuration, the schema it was written in, and whether it had to be changed to be read."""

    config: RunConfig
    schema: int
    is_migrated: bool


def read_config(content: bytes, source: str) -> RecordedConfig:
    """The validated configuration of a recorded config.yaml; `source` names it in errors.

    The store's address in it is left out: a record does not say what to connect to. Raises RequestError.
    """
    values = plain_values(content, source)
    schema = values.pop("schema", 1)
    try:
        migrated = _migrated(values, schema)
        config = RunConfig.from_mapping({**migrated, "tracking_uri": None})
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from error
    return RecordedConfig(config, schema, migrated != values)


# --- Migrations: each takes the values of its schema to the next one's, and returns them anew.


def _from_1(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Schema 1 had no `schema`; a data set's path stood there as it was typed, and is looked for from where
    the command is typed now; predictions were not held to the bit (see EXACT_PREDICTIONS)."""
    return values


MIGRATIONS: dict[int, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {1: _from_1}


def _migrated(values: Mapping[str, Any], schema: Any) -> Mapping[str, Any]:
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise RequestError(f"schema={shortened(repr(schema))}: must be a whole number >= 1")
    if schema > SCHEMA:
        raise RequestError(
            f"its schema is {schema}, and this nnexp knows up to {SCHEMA}: a newer nnexp recorded it; "
            "use that one, or a later"
        )
    for step in range(schema, SCHEMA):
        values = MIGRATIONS[step](values)
    return values
