-- What is an identifier, and how far it is trusted.
--   priority:    which identifier gives a person its canonical id (the least one wins)
--   max_records: who is shared by more records than this joins nobody; think of the tablet in a shop, which
--                hundreds of people have used
CREATE OR REPLACE TABLE unification_rules USING DELTA AS
SELECT namespace, priority, max_records, note
FROM VALUES
  ('loyalty_id', 1, 200, 'handed out by us; never reused'),
  ('email',      2,  50, 'lower case, without +tag; families share one'),
  ('phone',      3,  20, 'digits only, with the country''s code'),
  ('device_id',  4,   5, 'a browser or a phone; sold, lent and shared')
  AS rules (namespace, priority, max_records, note);

/* Values that people type where they have none.
   They are in common use; so they are listed here, and not left to max_records. */
CREATE OR REPLACE TABLE blocked_values USING DELTA AS
SELECT namespace, value, reason
FROM VALUES
  ('email',      'unknown@example.com', 'placeholder; the form demands one'),
  ('email',      'noreply@example.com', 'placeholder; set by an import'),
  ('phone',      '490000000000',        'placeholder -- typed by agents'),
  ('loyalty_id', 'LC00000000',          'placeholder; cards that are not yet activated'),
  ('device_id',  '0000000000000000',    'advertising id; switched off by its owner')
  AS blocked (namespace, value, reason);
