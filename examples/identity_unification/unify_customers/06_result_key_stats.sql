-- What the unification has brought: identifiers and records before, persons after.
CREATE OR REPLACE TABLE result_key_stats USING DELTA AS
SELECT
  namespace,
  count(*) AS before,
  count(DISTINCT canonical_id) AS persons,
  CAST(round(100.0 * (count(*) - count(DISTINCT canonical_id)) / count(*), 2) AS DECIMAL(5, 2)) AS merged_percent
FROM identity_graph
GROUP BY namespace;
