-- Identifiers of the web shop's visitors, cleaned: one row per record, namespace and value.
USE {catalog}.{schema};

CREATE OR REPLACE TABLE identifiers_web USING DELTA AS
SELECT DISTINCT record_key, 'web' AS source, seen_at, identifier.namespace, identifier.value
FROM (
  SELECT record_key, last_seen_at AS seen_at, explode(array(
    named_struct('namespace', 'email',      'value', regexp_replace(lower(trim(email)), '[+][^@]*@', '@')),
    named_struct('namespace', 'device_id',  'value', lower(regexp_replace(device_id, '[^0-9A-Fa-f]', ''))),
    named_struct('namespace', 'loyalty_id', 'value', upper(regexp_replace(loyalty_id, '[^0-9A-Za-z]', '')))
  )) AS identifier
  FROM src_web
) AS exploded
WHERE length(identifier.value) >= 6
  AND (identifier.namespace <> 'email' OR identifier.value LIKE '%_@_%');
