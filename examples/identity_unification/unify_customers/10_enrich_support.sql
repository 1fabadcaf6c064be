-- This table is read by others while we write: overwritten in one commit, never dropped.
CREATE TABLE IF NOT EXISTS enriched_support (
  canonical_id STRING COMMENT 'the person; see identity_lookup',
  record_key STRING,
  ticket_id STRING,
  caller_name STRING,
  contacts ARRAY<STRUCT<kind: STRING, value: STRING>>,
  subject STRING COMMENT 'as the agent wrote it; may hold anything',
  opened_at TIMESTAMP
) USING DELTA;

INSERT OVERWRITE enriched_support
SELECT l.canonical_id, s.record_key, s.ticket_id, s.caller_name, s.contacts, s.subject, s.opened_at
FROM src_support s LEFT JOIN identity_lookup l ON l.record_key = s.record_key;
