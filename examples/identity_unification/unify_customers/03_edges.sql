-- The graph: a node for every record and for every identifier that joins, an edge where a record has one.

CREATE OR REPLACE TABLE nodes USING DELTA AS
SELECT xxhash64(namespace, value) AS node_id, namespace, value, priority
FROM (
  SELECT 'record' AS namespace, record_key AS value, 9 AS priority FROM src_crm
  UNION ALL SELECT 'record', record_key, 9 FROM src_web
  UNION ALL SELECT 'record', record_key, 9 FROM src_app
  UNION ALL SELECT 'record', record_key, 9 FROM src_support
  UNION ALL
  SELECT DISTINCT i.namespace, i.value, r.priority
  FROM identifiers i JOIN unification_rules r ON r.namespace = i.namespace
  WHERE i.joins
) AS named;

-- Nodes are numbered by a hash of 64 bits, so that the loop compares numbers and not texts. Two nodes with one
-- number would join strangers: among a million nodes the odds are 1 to 37 million, and then we stop here.
SELECT assert_true(count(*) = count(DISTINCT node_id), 'two nodes have the same node_id; use sha2 in 03_edges.sql')
FROM nodes;

CREATE OR REPLACE TABLE edges USING DELTA AS
SELECT
  record_key,
  namespace,
  value,
  xxhash64('record', record_key) AS record_node,
  xxhash64(namespace, value) AS identifier_node
FROM (SELECT DISTINCT record_key, namespace, value FROM identifiers WHERE joins) AS joining;

-- What the loop begins with: every edge from the greater node to the lesser one.
CREATE OR REPLACE TABLE unify_loop_0 USING DELTA AS
SELECT greatest(record_node, identifier_node) AS node, least(record_node, identifier_node) AS parent
FROM edges;
