-- All identifiers of all sources in one table, and which of them may join records.
CREATE OR REPLACE TABLE identifiers USING DELTA AS
SELECT record_key, source, seen_at, namespace, value, true AS joins, CAST(NULL AS STRING) AS why_not
FROM (
  SELECT * FROM identifiers_crm
  UNION ALL SELECT * FROM identifiers_web
  UNION ALL SELECT * FROM identifiers_app
  UNION ALL SELECT * FROM identifiers_support
) AS found;

-- Placeholders; then what too many records share.
MERGE INTO identifiers AS t
USING blocked_values AS b
ON t.namespace = b.namespace AND t.value = b.value
WHEN MATCHED THEN UPDATE SET joins = false, why_not = b.reason;

MERGE INTO identifiers AS t
USING (
  SELECT i.namespace, i.value, i.records, r.max_records
  FROM (
    SELECT namespace, value, count(*) AS records  -- a record has a value once: they are distinct
    FROM identifiers
    WHERE joins
    GROUP BY namespace, value
  ) AS i
  JOIN unification_rules r ON r.namespace = i.namespace AND i.records > r.max_records
) AS shared
ON t.namespace = shared.namespace AND t.value = shared.value
WHEN MATCHED AND t.joins THEN UPDATE SET
  joins = false,
  why_not = concat('shared by ', shared.records, ' records; at most ', shared.max_records, ' may');
