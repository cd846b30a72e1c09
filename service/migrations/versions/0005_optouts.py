"""Lists of documents that are to be fed no more."""

import sqlalchemy as sa
from alembic import op

from epochal.common.errors import RequestError

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "optouts",
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("documents", sa.JSON(), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("added", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
    op.create_index("optouts_by_name", "optouts", ["name", "version"], unique=True)


def downgrade() -> None:
    lists = op.get_bind().execute(sa.text("SELECT count(*) FROM optouts")).scalar_one()
    if lists:
        raise RequestError(
            f"there are {lists:,} versions of opt-out lists: the tables of revision 0004 have no room for any"
        )
    op.drop_index("optouts_by_name", "optouts")
    op.drop_table("optouts")
