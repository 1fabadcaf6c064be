-- Identifiers of whoever opened a ticket, cleaned: one row per record, namespace and value.
-- Agents write what they hear; "kind" is one of mail, e-mail, tel, phone.
CREATE OR REPLACE TABLE identifiers_support USING DELTA AS
WITH contacts AS (
  SELECT record_key, opened_at AS seen_at, contact.kind, trim(contact.value) AS value
  FROM src_support LATERAL VIEW explode(contacts) listed AS contact
), cleaned AS (
  SELECT
    record_key,
    seen_at,
    CASE WHEN kind IN ('mail', 'e-mail') THEN 'email' WHEN kind IN ('tel', 'phone') THEN 'phone' END AS namespace,
    CASE
      WHEN kind IN ('mail', 'e-mail') THEN regexp_replace(lower(value), '[+][^@]*@', '@')
      ELSE regexp_replace(regexp_replace(value, '[^0-9]', ''), '^00', '')
    END AS value
  FROM contacts
)
SELECT DISTINCT
  record_key,
  'support' AS source,
  seen_at,
  namespace,
  CASE WHEN namespace = 'phone' AND value LIKE '0%' THEN concat('49', substring(value, 2)) ELSE value END AS value
FROM cleaned
WHERE namespace IS NOT NULL
  AND length(value) >= 6
  AND (namespace = 'phone' OR value LIKE '%_@_%');
