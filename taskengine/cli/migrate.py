"""`taskengine migrate`."""

from __future__ import annotations

from typing import Annotated

import typer
from alembic.util import CommandError

from taskengine.cli.screen import good
from taskengine.errors import SettingsError
from taskengine.settings import load_settings, without_password
from taskengine.store import migrate as migrations

__all__ = ["migrate"]


def migrate(
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead of running them.")] = False,
    to: Annotated[str | None, typer.Option(help="Revision to go to; default: the newest.", metavar="REV")] = None,
    down: Annotated[bool, typer.Option("--down", help="Go back, to the revision before or to --to.")] = False,
) -> None:
    """Bring the database to the schema this version needs. Running it twice does no harm."""
    if sql and down:
        raise SettingsError("--sql prints the statements of an upgrade: leave --down out")
    if sql:
        typer.echo(migrations.sql(to or "head"))
        return
    url = load_settings().database_url.get_secret_value()
    try:
        if down:
            migrations.downgrade(url, to or "-1")
            good(f"{without_password(url)} went back to {to or 'the revision before'}")
        else:
            migrations.upgrade(url, to or "head")
            good(f"{without_password(url)} is at schema {to or migrations.head()}")
    except CommandError as error:
        raise SettingsError(f"cannot go to {to!r}: {error}") from error
