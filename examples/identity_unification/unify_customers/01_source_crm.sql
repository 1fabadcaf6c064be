-- Customers as the CRM has them. One row per customer_id: the newest, if it was exported more than once.
CREATE OR REPLACE TABLE src_crm USING DELTA AS
SELECT concat('crm:', customer_id) AS record_key, customer_id, full_name, email, phone, loyalty_id, city, updated_at
FROM (
  SELECT *, row_number() OVER (PARTITION BY customer_id ORDER BY updated_at DESC, email) AS newest
  FROM parquet.`{landing}/crm`
) AS exported
WHERE newest = 1;
