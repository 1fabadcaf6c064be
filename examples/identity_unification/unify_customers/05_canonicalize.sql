-- Every node with the canonical id of its person: a hash of the person's best identifier (the least by priority
-- and value), so that it is the same in every run, whatever numbers the nodes have.
CREATE OR REPLACE TABLE identity_graph USING DELTA AS
WITH components AS (
  SELECT n.node_id, n.namespace, n.value, n.priority, coalesce(f.parent, n.node_id) AS component
  FROM nodes n LEFT JOIN unify_loop_final f ON f.node = n.node_id
), best AS (
  SELECT component, min(concat(priority, '|', namespace, '|', value)) AS identifier, count(*) AS nodes
  FROM components
  GROUP BY component
), persons AS (
  -- without the priority, which is one digit
  SELECT component, concat('P', upper(substring(sha2(substring(identifier, 3), 256), 1, 20))) AS canonical_id, nodes
  FROM best
)
SELECT p.canonical_id, c.namespace, c.value, c.node_id, p.nodes AS component_nodes
FROM components c JOIN persons p ON p.component = c.component;

-- For lookups by record.
CREATE OR REPLACE TABLE identity_lookup USING DELTA AS
SELECT value AS record_key, split(value, ':')[0] AS source, canonical_id
FROM identity_graph
WHERE namespace = 'record';
