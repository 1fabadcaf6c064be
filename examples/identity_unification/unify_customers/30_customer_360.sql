-- For those who only look.
CREATE OR REPLACE VIEW customer_360 AS
SELECT
  m.canonical_id, m.name, m.city, m.loyalty_id,
  e.value AS best_email, p.value AS best_phone,
  m.records, size(m.sources) AS sources, m.last_seen_at
FROM master_customers m
LEFT JOIN master_contacts e ON e.canonical_id = m.canonical_id AND e.namespace = 'email' AND e.rank = 1
LEFT JOIN master_contacts p ON p.canonical_id = m.canonical_id AND p.namespace = 'phone' AND p.rank = 1;
