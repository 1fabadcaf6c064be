-- Per source and namespace: how many records have an identifier, and how many of those join.
CREATE OR REPLACE TABLE source_key_stats USING DELTA AS
SELECT
  source,
  namespace,
  grouping(namespace) = 1 AS is_total,
  count(*) AS identifiers,
  count(DISTINCT record_key) AS records,
  count(DISTINCT value) AS distinct_values,
  count_if(joins) AS joining,
  count_if(NOT joins) AS ignored,
  sort_array(collect_set(split(why_not, ';')[0])) AS reasons
FROM identifiers
GROUP BY source, ROLLUP (namespace);
