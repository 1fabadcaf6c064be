-- Without a number: runs last. Working tables go, tables that are read often are put in order.
DROP TABLE IF EXISTS identifiers_crm;
DROP TABLE IF EXISTS identifiers_web;
DROP TABLE IF EXISTS identifiers_app;
DROP TABLE IF EXISTS identifiers_support;

OPTIMIZE identity_lookup;
OPTIMIZE master_customers ZORDER BY (canonical_id);
