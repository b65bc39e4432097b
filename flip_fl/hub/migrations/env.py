"""What alembic runs for every migration: on the connection, and in the transaction, that `database.migrate` opened."""

from alembic import context
from sqlmodel import SQLModel

import flip_fl.hub.access_tables  # noqa: F401 - fills the metadata, with the tables it stands on

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    # SQLite changes a column only by copying its table.
    render_as_batch=True,
)
context.run_migrations()
