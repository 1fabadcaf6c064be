-- Every way to reach a person, best first: seen in most sources, then most often, then last.
CREATE OR REPLACE TABLE master_contacts USING DELTA AS
SELECT canonical_id, namespace, value, sources, times_seen, last_seen_at, CAST(rank AS INT) AS rank
FROM (
  SELECT *, row_number() OVER (
      PARTITION BY canonical_id, namespace
      ORDER BY size(sources) DESC, times_seen DESC, last_seen_at DESC, value) AS rank
  FROM (
    SELECT g.canonical_id, i.namespace, i.value,
      sort_array(collect_set(i.source)) AS sources, count(*) AS times_seen, max(i.seen_at) AS last_seen_at
    FROM identifiers i
    JOIN identity_graph g ON g.namespace = i.namespace AND g.value = i.value
    WHERE i.joins AND i.namespace IN ('email', 'phone')
    GROUP BY g.canonical_id, i.namespace, i.value
  ) AS counted
) AS ranked;
