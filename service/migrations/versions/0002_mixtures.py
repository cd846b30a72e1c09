"""A plan may have several subsets: they move to a table of their own."""

import sqlalchemy as sa
from alembic import op

from epochal.common.errors import RequestError

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


def downgrade() -> None:
    several = "SELECT count(*) FROM (SELECT plan FROM plan_subsets GROUP BY plan HAVING count(*) > 1) AS several"
    mixed = op.get_bind().execute(sa.text(several)).scalar_one()
    if mixed:
        raise RequestError(f"{mixed:,} plans have several subsets: the tables of revision 0001 have room for one each")
    with op.batch_alter_table("plans", schema=None) as batch_op:
        batch_op.add_column(sa.Column("subset", sa.String(length=32), nullable=True))
    op.execute("UPDATE plans SET subset = (SELECT s.subset FROM plan_subsets s WHERE s.plan = plans.fingerprint)")
    with op.batch_alter_table("plans", schema=None) as batch_op:
        batch_op.alter_column("subset", existing_type=sa.String(length=32), nullable=False)
        batch_op.create_index("ix_plans_subset", ["subset"], unique=False)
    op.drop_table("plan_subsets")
