"""The workflow of the workflow matrix: every kind of statement that must not happen twice, and two loops."""

from __future__ import annotations

from pathlib import Path

SETUP = (
    "CREATE TABLE ledger AS SELECT id, id * 10 AS v FROM range(4)",
    "CREATE TABLE work AS SELECT id, id AS v FROM range(3)",
    "CREATE TABLE old AS SELECT 1 AS x",
)
FILES = {
    "01_nodes.sql": "CREATE OR REPLACE TABLE nodes AS SELECT id, id AS label FROM range(3);\n"
    "INSERT INTO nodes SELECT 3, 3;\nOPTIMIZE nodes;",
    "02_ledger.sql": "INSERT INTO ledger SELECT id + 100, 7 FROM nodes;\nINSERT INTO ledger VALUES (200, 8);",
    "03_changes.sql": "CREATE TEMPORARY VIEW fresh AS SELECT id, label + 1000 AS v FROM nodes UNION ALL "
    "SELECT 300, 9;\n"
    "MERGE INTO ledger AS t USING fresh AS s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = t.v + s.v "
    "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, s.v);\n"
    "UPDATE ledger SET v = v + 1 WHERE id >= 100;\n"
    "MERGE INTO ledger AS t USING (SELECT max(id) AS m FROM ledger) AS s ON t.id = s.m "
    "WHEN MATCHED THEN DELETE;\n"
    "DELETE FROM ledger WHERE id = 200;\nINSERT INTO ledger VALUES (200, 8);\n"
    "INSERT OVERWRITE ledger SELECT id, v * 2 FROM ledger;\n"
    "ALTER TABLE ledger SET TBLPROPERTIES ('purpose' = 'a; b');\n"
    "CREATE OR REPLACE TABLE snap AS SELECT * FROM ledger;",
    "04_label_loop_iteration_01.sql": "CREATE OR REPLACE TABLE label_1 AS SELECT id, "
    "greatest(label - 1, 0) AS label FROM nodes;",
    "04_label_loop_iteration_02.sql": "CREATE OR REPLACE TABLE label_2 AS SELECT id, "
    "greatest(label - 1, 0) AS label FROM label_1;",
    "05_shrink_loop_iteration_01.sql": "UPDATE work SET v = v - 1 WHERE v > 0;",
    "06_names.sql": "CREATE TABLE made AS SELECT * FROM label_loop_final;\n"
    "INSERT INTO made VALUES (77, 77);\nALTER TABLE made RENAME TO kept;\n"
    "INSERT INTO kept VALUES (78, 78);\nDROP TABLE old;",
}
# Tables that are not made anew: not one commit more than in an undisturbed run.
EXACT = ("ledger", "work", "kept")
_LONG = "SELECT count(*) AS n FROM range(30000) a CROSS JOIN range(15000) b WHERE a.id * b.id % 7 = 3"
# Each adds one row to a table, after some seconds.
SLOW = (
    f"INSERT INTO slow {_LONG}",
    f"MERGE INTO slow AS t USING ({_LONG}) AS s ON t.v = s.n WHEN NOT MATCHED THEN INSERT (v) VALUES (s.n)",
)


def write_flow(folder: Path) -> Path:
    """Write the files below ``folder``."""
    flow = folder / "flow"
    flow.mkdir(parents=True)
    for name, text in FILES.items():
        (flow / name).write_text(text, encoding="utf-8")
    return flow


def write_slow(folder: Path, statement: str) -> Path:
    """Write a workflow of one statement below ``folder``."""
    flow = folder / "slow"
    flow.mkdir(parents=True)
    (flow / "01_slow.sql").write_text(statement, encoding="utf-8")
    return flow
