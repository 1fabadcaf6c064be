-- Identifiers of the app's installations, cleaned: one row per record, namespace and value.
USE CATALOG {catalog};
USE {schema};

CREATE OR REPLACE TABLE identifiers_app USING DELTA AS
WITH cleaned AS (
  SELECT
    record_key,
    installed_at AS seen_at,
    regexp_replace(lower(trim(email)), '[+][^@]*@', '@') AS email,
    regexp_replace(phone, '[^0-9]', '') AS digits,
    lower(regexp_replace(device_id, '[^0-9A-Fa-f]', '')) AS device_id
  FROM src_app
), listed AS (
  SELECT record_key, seen_at, 'email' AS namespace, email AS value FROM cleaned WHERE email LIKE '%_@_%'
  UNION ALL
  SELECT record_key, seen_at, 'phone', concat('49', substring(digits, 2)) FROM cleaned
  WHERE digits LIKE '0%' AND digits NOT LIKE '00%'
  UNION ALL
  SELECT record_key, seen_at, 'phone', regexp_replace(digits, '^00', '') FROM cleaned
  WHERE digits NOT LIKE '0%' OR digits LIKE '00%'
  UNION ALL
  SELECT record_key, seen_at, 'device_id', device_id FROM cleaned
)
SELECT DISTINCT record_key, 'app' AS source, seen_at, namespace, value
FROM listed
WHERE length(value) >= 6;
