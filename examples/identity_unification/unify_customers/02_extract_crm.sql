-- Identifiers of the CRM's customers, cleaned: one row per record, namespace and value.
USE CATALOG {catalog};
USE SCHEMA {schema};

CREATE OR REPLACE TEMPORARY VIEW cleaned_crm AS
SELECT
  record_key,
  updated_at AS seen_at,
  regexp_replace(lower(trim(email)), '[+][^@]*@', '@') AS email,
  regexp_replace(phone, '[^0-9]', '') AS digits,
  upper(regexp_replace(loyalty_id, '[^0-9A-Za-z]', '')) AS loyalty_id
FROM src_crm;

CREATE OR REPLACE TABLE identifiers_crm USING DELTA AS
SELECT DISTINCT record_key, 'crm' AS source, seen_at, identifier.namespace, identifier.value
FROM (
  SELECT record_key, seen_at, explode(array(
    named_struct('namespace', 'email',      'value', CASE WHEN email LIKE '%_@_%' THEN email END),
    named_struct('namespace', 'phone',      'value', CASE
      WHEN digits LIKE '00%' THEN substring(digits, 3)               -- 0049 30 …
      WHEN digits LIKE '0%' THEN concat('49', substring(digits, 2))  -- 030 …; at home
      ELSE digits END),
    named_struct('namespace', 'loyalty_id', 'value', loyalty_id)
  )) AS identifier
  FROM cleaned_crm
) AS exploded
WHERE length(identifier.value) >= 6;
