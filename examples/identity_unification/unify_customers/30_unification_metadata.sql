-- What was made of what: read by the catalogue of data products. No clocks here: as_of is when the newest of the
-- records was seen, so that the same data give the same tables.
CREATE TABLE IF NOT EXISTS unification_metadata (
  object STRING COMMENT 'table or view',
  made_by STRING COMMENT 'file of this workflow',
  what STRING COMMENT 'in a sentence; may hold semicolons',
  row_count BIGINT,
  as_of TIMESTAMP
) USING DELTA;

INSERT OVERWRITE TABLE unification_metadata
SELECT object, made_by, what, row_count, as_of
FROM (
  SELECT 'identity_lookup' AS object, '05_canonicalize.sql' AS made_by,
    'record to person; one row per record' AS what, count(*) AS row_count FROM identity_lookup
  UNION ALL
  SELECT 'identity_graph', '05_canonicalize.sql', 'node to person; records and identifiers', count(*)
  FROM identity_graph
  UNION ALL
  SELECT 'master_customers', '20_master_customers.sql', 'one row per person; "golden record"', count(*)
  FROM master_customers
  UNION ALL
  SELECT 'master_contacts', '20_master_contacts.sql', 'e-mail and phone per person; ranked', count(*)
  FROM master_contacts
  UNION ALL
  SELECT 'master_devices', '20_master_devices.sql', 'devices; whose they are', count(*)
  FROM master_devices
) AS made
CROSS JOIN (SELECT max(seen_at) AS as_of FROM identifiers) AS newest;
