-- Devices and whose they are; those of nobody (shared by too many) with the reason.
CREATE OR REPLACE TABLE master_devices USING DELTA AS
SELECT
  i.value AS device_id,
  max(g.canonical_id) AS canonical_id,
  count(DISTINCT i.record_key) AS records,
  min(i.seen_at) AS first_seen_at,
  max(i.seen_at) AS last_seen_at,
  max(i.why_not) AS why_not
FROM identifiers i
LEFT JOIN identity_graph g ON i.joins AND g.namespace = i.namespace AND g.value = i.value
WHERE i.namespace = 'device_id'
GROUP BY i.value;
