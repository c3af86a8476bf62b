"""Insert many rows into MLflow's tables, quickly."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from nnexp.tracking.tables import METRICS

# Rows of one INSERT. Every statement is a round through the driver and the database's interpreter.
ROWS_AT_ONCE = 500
# What stands for these characters in the text that PostgreSQL copies rows from.
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})

Row = tuple[object, ...]


def insert(connection: sa.Connection, table: sa.TableClause, rows: Iterable[Row]) -> None:
    """Insert rows whose values are in the order of the table's columns.

    Like MLflow, skip a point of a metric that is there already.
    """
    # The drivers take plain tuples, which is several times as fast as SQLAlchemy's own way.
    is_sqlite = connection.dialect.name == "sqlite"
    marks = f"({', '.join(['?' if is_sqlite else '%s'] * len(table.columns))})"
    into, behind = f"INTO {_named(table)} VALUES ", ""
    if table is METRICS and is_sqlite:
        into = f"OR IGNORE {into}"  # quicker than ON CONFLICT
    elif table is METRICS:
        behind = " ON CONFLICT DO NOTHING"
    left = iter(rows)
    while some := list(islice(left, ROWS_AT_ONCE)):
        sql = f"INSERT {into}{', '.join([marks] * len(some))}{behind}"
        connection.exec_driver_sql(sql, tuple(chain.from_iterable(some)))


def insert_new(connection: sa.Connection, table: sa.TableClause, rows: Iterable[Row]) -> None:
    """Insert rows of runs that have none yet; a row that is among them twice is inserted once."""
    if connection.dialect.driver != "psycopg2":
        insert(connection, table, rows)
        return
    # PostgreSQL takes a copied row in half the time of an inserted one. It does not skip rows, however.
    text = io.StringIO("".join("\t".join(map(_text, row)) + "\n" for row in dict.fromkeys(rows)))
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor:
            cursor.copy_expert(f"COPY {_named(table)} FROM STDIN", text)
    except driver.Error as error:
        raise DBAPIError.instance("COPY", None, error, driver.Error) from error


def _named(table: sa.TableClause) -> str:
    """Return the table's name with those of its columns, in SQL."""
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    return f"{table.name} ({names})"


def _text(value: object) -> str:
    """Return a value as PostgreSQL copies it."""
    if isinstance(value, str):
        return value.translate(_ESCAPED)
    return r"\N" if value is None else str(value)
