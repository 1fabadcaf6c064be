-- One row per person. The name is the one that most records give; of several, the one that was seen last.
CREATE OR REPLACE TABLE master_customers_new USING DELTA AS
WITH named AS (
  SELECT canonical_id, trim(full_name) AS name, city, updated_at AS seen_at FROM enriched_crm
  UNION ALL
  SELECT canonical_id, trim(display_name), NULL, installed_at FROM enriched_app
  UNION ALL
  SELECT canonical_id, trim(caller_name), NULL, opened_at FROM enriched_support
  UNION ALL
  SELECT canonical_id, NULL, NULL, last_seen_at FROM enriched_web
), votes AS (
  SELECT canonical_id, name, row_number() OVER (
      PARTITION BY canonical_id ORDER BY count(*) DESC, max(seen_at) DESC, name) AS place
  FROM named
  WHERE name <> '' AND name NOT IN ('n/a', 'unknown; not given')
  GROUP BY canonical_id, name
), cities AS (
  SELECT canonical_id, city, row_number() OVER (PARTITION BY canonical_id ORDER BY seen_at DESC, city) AS place
  FROM named
  WHERE city IS NOT NULL
), known AS (
  SELECT
    canonical_id,
    filter(sort_array(collect_set(CASE WHEN namespace = 'email' THEN value END)), x -> x IS NOT NULL) AS emails,
    filter(sort_array(collect_set(CASE WHEN namespace = 'phone' THEN value END)), x -> x IS NOT NULL) AS phones,
    min(CASE WHEN namespace = 'loyalty_id' THEN value END) AS loyalty_id,
    count_if(namespace = 'record') AS records
  FROM identity_graph
  GROUP BY canonical_id
), sources AS (
  SELECT canonical_id, sort_array(collect_set(source)) AS sources FROM identity_lookup GROUP BY canonical_id
), seen AS (
  SELECT canonical_id, min(seen_at) AS first_seen_at, max(seen_at) AS last_seen_at FROM named GROUP BY canonical_id
)
SELECT
  k.canonical_id, v.name, c.city, k.loyalty_id, k.emails, k.phones, s.sources, k.records,
  seen.first_seen_at, seen.last_seen_at
FROM known k
JOIN sources s ON s.canonical_id = k.canonical_id
JOIN seen ON seen.canonical_id = k.canonical_id
LEFT JOIN votes v ON v.canonical_id = k.canonical_id AND v.place = 1
LEFT JOIN cities c ON c.canonical_id = k.canonical_id AND c.place = 1;

-- Who reads master_customers sees the old one or the new one, and never half of it.
DROP TABLE IF EXISTS master_customers;
ALTER TABLE master_customers_new RENAME TO master_customers;
