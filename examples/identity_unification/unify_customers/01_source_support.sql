-- Tickets of the support desk: how somebody may be reached is a list, contacts ARRAY<STRUCT<kind, value>>.
CREATE OR REPLACE TABLE src_support USING DELTA AS
SELECT concat('support:', ticket_id) AS record_key, ticket_id, caller_name, contacts, subject, opened_at
FROM parquet.`{landing}/support`;
