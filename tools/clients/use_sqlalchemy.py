"""databricks-sqlalchemy, with pandas."""

from __future__ import annotations

import datetime
import os
from decimal import Decimal

import pandas
import sqlalchemy as sa
from checks import HOST, HTTP_PATH, TOKEN, Checks
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

check = Checks()
# The dialect knows no port: the connector is told the whole address.
arguments = {"_connection_uri": HOST + HTTP_PATH, "_tls_trusted_ca_file": os.environ["SSL_CERT_FILE"]}
server = HOST.partition("//")[2]
url = f"databricks://token:{TOKEN}@{server}?http_path={HTTP_PATH}&catalog=main&schema=default"
engine = sa.create_engine(url, connect_args={**arguments, "enable_telemetry": False})
metadata = sa.MetaData()
items = sa.Table(
    "alchemy_items",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("name", sa.String(50), nullable=False, comment="its name"),
    sa.Column("price", sa.Numeric(10, 2)),
    sa.Column("good", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("at", sa.DateTime),
    sa.Column("weight", sa.Float),
    sa.Column("few", sa.Integer),
)
AT = datetime.datetime(2024, 1, 2, 3, 4, 5)
ROWS = [
    {
        "id": 1,
        "name": "a'b",
        "price": Decimal("1.50"),
        "good": True,
        "day": AT.date(),
        "at": AT,
        "weight": 0.5,
        "few": 1,
    },
    {"id": 2, "name": "ü", "price": None, "good": False, "day": None, "at": None, "weight": None, "few": 2},
]


@check
def connects() -> None:
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1 + 1")).scalar() == 2


@check
def binds_parameters() -> None:
    with engine.connect() as connection:
        row = connection.execute(
            sa.text("SELECT :a AS a, :b AS b, :c AS c"), {"a": 1, "b": "x'y", "c": 1.5}
        ).one()
        assert tuple(row) == (1, "x'y", 1.5), row


@check
def creates_tables() -> None:
    metadata.drop_all(engine)
    metadata.create_all(engine)
    metadata.create_all(engine)  # what is there is left


@check
def inserts_a_row() -> None:
    with engine.begin() as connection:
        connection.execute(items.insert().values(**ROWS[0]))


@check
def inserts_many_rows() -> None:
    with engine.begin() as connection:
        connection.execute(items.insert(), [{**ROWS[1], "id": number} for number in (2, 3)])


@check
def selects_typed_rows() -> None:
    with engine.connect() as connection:
        found = connection.execute(sa.select(items).where(items.c.id == 1)).mappings().one()
    expected = dict(ROWS[0])
    assert {**found, "at": found["at"].replace(tzinfo=None)} == expected, found


@check
def filters_and_orders() -> None:
    query = (
        sa.select(items.c.id).where(items.c.name.like("ü%")).order_by(items.c.id.desc()).limit(1).offset(0)
    )
    with engine.connect() as connection:
        assert connection.execute(query).scalar() == 3


@check
def filters_by_a_list() -> None:
    with engine.connect() as connection:
        found = connection.execute(sa.select(items.c.id).where(items.c.id.in_([1, 3])).order_by(items.c.id))
        assert [row.id for row in found] == [1, 3]


@check
def aggregates_and_groups() -> None:
    query = sa.select(items.c.good, sa.func.count()).group_by(items.c.good).order_by(items.c.good)
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(query)] == [(False, 2), (True, 1)]


@check
def joins_itself() -> None:
    other = items.alias("o")
    query = sa.select(sa.func.count()).select_from(items.join(other, items.c.few == other.c.few))
    with engine.connect() as connection:
        assert connection.execute(query).scalar() == 5


@check
def updates_rows() -> None:
    with engine.begin() as connection:
        connection.execute(items.update().where(items.c.id == 3).values(name="changed"))
    with engine.connect() as connection:
        assert connection.execute(sa.select(items.c.name).where(items.c.id == 3)).scalar() == "changed"


@check
def deletes_rows() -> None:
    with engine.begin() as connection:
        connection.execute(items.delete().where(items.c.id == 3))
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(items)).scalar() == 2


@check
def lists_schemas() -> None:
    assert "default" in sa.inspect(engine).get_schema_names()


@check
def lists_tables() -> None:
    assert "alchemy_items" in sa.inspect(engine).get_table_names()


@check
def lists_views() -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE OR REPLACE VIEW alchemy_view AS SELECT id FROM alchemy_items"))
    inspector = sa.inspect(engine)
    assert "alchemy_view" in inspector.get_view_names()
    assert "alchemy_view" not in inspector.get_table_names()


@check
def knows_whether_a_table_exists() -> None:
    inspector = sa.inspect(engine)
    assert inspector.has_table("alchemy_items")
    assert not inspector.has_table("alchemy_absent")


@check
def reads_columns() -> None:
    columns = {item["name"]: item for item in sa.inspect(engine).get_columns("alchemy_items")}
    assert list(columns) == [column.name for column in items.columns], columns
    assert isinstance(columns["price"]["type"], sa.Numeric), columns["price"]
    assert columns["name"]["comment"] == "its name", columns["name"]


@check
def reads_the_primary_key() -> None:
    assert sa.inspect(engine).get_pk_constraint("alchemy_items")["constrained_columns"] == ["id"]


@check
def reflects_a_table() -> None:
    reflected = sa.Table("alchemy_items", sa.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        assert len(connection.execute(sa.select(reflected)).all()) == 2


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "alchemy_people"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(sa.String)


@check
def maps_objects() -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Person(id=1, name="Ada"), Person(id=2, name="Grace")])
        session.commit()
    with Session(engine) as session:
        ada = session.get(Person, 1)
        assert ada is not None
        ada.name = "Ada L."
        session.commit()
    with Session(engine) as session:
        assert session.scalars(sa.select(Person.name).order_by(Person.id)).all() == ["Ada L.", "Grace"]


FRAME = pandas.DataFrame({"id": [1, 2, 3], "name": ["a", "b", None], "x": [0.5, 1.5, None]})


@check
def pandas_writes_a_table() -> None:
    FRAME.to_sql("alchemy_frame", engine, if_exists="replace", index=False)
    FRAME.to_sql("alchemy_frame", engine, if_exists="append", index=False, method="multi")


@check
def pandas_reads_a_query() -> None:
    found = pandas.read_sql("SELECT id, name, x FROM alchemy_frame ORDER BY id", engine)
    assert len(found) == 6
    assert found["x"].sum() == 4.0


@check
def pandas_reads_a_table() -> None:
    assert len(pandas.read_sql_table("alchemy_items", engine)) == 2


engine.dispose()
check.finish()
