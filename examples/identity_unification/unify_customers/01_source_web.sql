-- Visitors of the web shop. Most never say who they are.
CREATE OR REPLACE TABLE src_web USING DELTA AS
SELECT concat('web:', visitor_id) AS record_key, visitor_id, email, device_id, loyalty_id, page_views, last_seen_at
FROM parquet.`{landing}/web`;
