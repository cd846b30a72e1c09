"""The tables of the first version."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("pool", sa.String(length=32), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("documents", sa.BigInteger(), nullable=False),
        sa.Column("seq_len", sa.BigInteger(), nullable=False),
        sa.Column("tokenizer", sa.String(length=500), nullable=False),
        sa.Column("tokenizer_fingerprint", sa.String(length=500), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("added", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_artifacts_pool"), ["pool"], unique=False)

    op.create_table(
        "limits",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("cap", sa.BigInteger(), nullable=False),
        sa.Column("subset", sa.String(length=32), nullable=True),
        sa.Column("added", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "names",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("names", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_names_fingerprint"), ["fingerprint"], unique=False)
        batch_op.create_index("names_by_name", ["kind", "name", "id"], unique=False)

    op.create_table(
        "plans",
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("subset", sa.String(length=32), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("added", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
    with op.batch_alter_table("plans", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_plans_subset"), ["subset"], unique=False)

    op.create_table(
        "locations",
        sa.Column("path", sa.String(length=4000), nullable=False),
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("layout", sa.String(length=10), nullable=False),
        sa.Column("manifest_xxh64", sa.String(length=16), nullable=False),
        sa.Column("added", sa.Float(), nullable=False),
        sa.Column("gone", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["fingerprint"],
            ["artifacts.fingerprint"],
        ),
        sa.PrimaryKeyConstraint("path"),
    )
    with op.batch_alter_table("locations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_locations_fingerprint"), ["fingerprint"], unique=False)

    op.create_table(
        "runs",
        sa.Column("fingerprint", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("plan", sa.String(length=32), nullable=False),
        sa.Column("batch_samples", sa.BigInteger(), nullable=False),
        sa.Column("parent", sa.String(length=32), nullable=True),
        sa.Column("parent_position", sa.BigInteger(), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("kind", sa.String(length=20), nullable=True),
        sa.Column("digest", sa.String(length=32), nullable=True),
        sa.Column("reported", sa.Float(), nullable=True),
        sa.Column("receipt", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("receipt_problem", sa.String(length=1000), nullable=True),
        sa.Column("added", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["parent"],
            ["runs.fingerprint"],
        ),
        sa.ForeignKeyConstraint(
            ["plan"],
            ["plans.fingerprint"],
        ),
        sa.PrimaryKeyConstraint("fingerprint"),
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_runs_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_runs_parent"), ["parent"], unique=False)
        batch_op.create_index(batch_op.f("ix_runs_plan"), ["plan"], unique=False)

    op.create_table(
        "checkpoints",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=400), nullable=False),
        sa.Column("digest", sa.String(length=32), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.fingerprint"],
        ),
        sa.PrimaryKeyConstraint("run", "position", "name"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("session", sa.String(length=64), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.fingerprint"],
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "reports",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("token", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("split", sa.String(length=10), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("loss", sa.Float(), nullable=True),
        sa.Column("kind", sa.String(length=20), nullable=True),
        sa.Column("digest", sa.String(length=32), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.fingerprint"],
        ),
        sa.PrimaryKeyConstraint("run", "token", "position", "split"),
    )


def downgrade() -> None:
    for table in ("reports", "leases", "checkpoints", "runs", "locations", "plans", "names", "limits", "artifacts"):
        op.drop_table(table)
