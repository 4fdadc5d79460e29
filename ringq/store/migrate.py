"""Store: `python -m ringq.store.migrate <database>` brings a database to the newest schema.

The only place that imports alembic. The server starts it when it finds an older revision, after a backup. By
hand: stop the server and copy the file first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config

from ringq.errors import RingqError
from ringq.store.engine import driver, open_writer
from ringq.store.failures import translated
from ringq.store.lock import OwnerLock, resolved
from ringq.store.schema import APPLICATION_ID, REVISION_TABLE

# Makes the table of the revision with our words, unless it is there.
REVISION_TABLE_IF_MISSING = REVISION_TABLE.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")


def migrate(path: Path, revision: str = "head") -> None:
    """Bring the file to `revision`: all steps in one transaction, or none. The caller owns the database."""
    with translated(path):
        connection = open_writer(path, "full")
        try:
            # alembic leaves a transaction alone that it finds open; SQLAlchemy's stands for SQLite's here.
            with connection.begin():
                driver(connection).execute("BEGIN IMMEDIATE")
                driver(connection).execute(f"PRAGMA application_id = {APPLICATION_ID}")
                driver(connection).execute(REVISION_TABLE_IF_MISSING)
                config = Config()
                config.set_main_option("script_location", "ringq.store:migrations")
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
                driver(connection).execute("COMMIT")
        finally:
            connection.close()


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line; 0 when the database has the newest schema."""
    parser = argparse.ArgumentParser(prog="python -m ringq.store.migrate", description=migrate.__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--owned", action="store_true", help="the calling process holds the owner's lock")
    options = parser.parse_args(arguments)
    try:
        if options.owned:
            migrate(resolved(options.database))
        else:
            with OwnerLock(options.database) as lock:
                migrate(lock.path)
    except RingqError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
