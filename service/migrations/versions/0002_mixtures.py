"""A plan may have several subsets: they move to a table of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "plan_subsets",
        sa.Column("plan", sa.String(length=32), nullable=False),
        sa.Column("subset", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["plan"], ["plans.fingerprint"]),
        sa.PrimaryKeyConstraint("plan", "subset"),
    )
    op.create_index("ix_plan_subsets_subset", "plan_subsets", ["subset"], unique=False)
    op.execute("INSERT INTO plan_subsets (plan, subset) SELECT fingerprint, subset FROM plans")
    op.drop_index("ix_plans_subset", "plans")
    op.drop_column("plans", "subset")
