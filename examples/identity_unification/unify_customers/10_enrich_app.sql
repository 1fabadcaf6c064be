CREATE OR REPLACE TABLE enriched_app USING DELTA AS
SELECT l.canonical_id, s.*
FROM src_app s LEFT JOIN identity_lookup l ON l.record_key = s.record_key;
