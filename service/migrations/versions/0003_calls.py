"""Leases count the calls under them; who holds one may have as long a name as a request allows."""

import sqlalchemy as sa
from alembic import op

from epochal.common.errors import RequestError

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("calls", sa.BigInteger(), server_default="0", nullable=False))
        for name in ("holder", "session"):
            batch_op.alter_column(name, existing_type=sa.String(64), type_=sa.String(128), existing_nullable=False)


def downgrade() -> None:
    longer = "SELECT count(*) FROM leases WHERE length(holder) > 64 OR length(session) > 64"
    long = op.get_bind().execute(sa.text(longer)).scalar_one()
    if long:
        raise RequestError(
            f"{long:,} leases have holders or sessions of more than 64 characters: revision 0002 does not"
        )
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_column("calls")
        for name in ("holder", "session"):
            batch_op.alter_column(name, existing_type=sa.String(128), type_=sa.String(64), existing_nullable=False)
