"""Leases count the calls under them; who holds one may have as long a name as a request allows."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False))
        for name in ("holder", "session"):
            batch_op.alter_column(name, existing_type=sa.String(64), type_=sa.String(128), existing_nullable=False)
