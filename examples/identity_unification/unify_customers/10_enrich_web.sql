CREATE OR REPLACE TABLE enriched_web USING DELTA AS
SELECT l.canonical_id, s.*
FROM src_web s LEFT JOIN identity_lookup l ON l.record_key = s.record_key;
