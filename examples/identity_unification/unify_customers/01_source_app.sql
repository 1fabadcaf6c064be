-- Installations of the app.
CREATE OR REPLACE TABLE src_app USING DELTA AS
SELECT concat('app:', install_id) AS record_key, install_id, display_name, email, phone, device_id, platform,
  installed_at
FROM parquet.`{landing}/app`;
