-- Connected components by alternating large-star and small-star
-- (R. Kiveris, S. Lattanzi, V. Mirrokni, V. Rastogi, S. Vassilvitskii: "Connected Components in MapReduce and
-- Beyond", SoCC 2014). Every round joins each node to the least one that it can see; a chain of n records takes
-- some log2(n) rounds, not n, and there are never more edges than in the beginning. At the end every node hangs
-- on the least node of its component, and a further round changes nothing.
CREATE OR REPLACE TABLE unify_loop_2 USING DELTA AS
WITH both_ways AS (
  SELECT node AS centre, parent AS other FROM unify_loop_1
  UNION ALL
  SELECT parent AS centre, node AS other FROM unify_loop_1
), large_star AS (
  -- of each node: its greater neighbours are joined to the least one around it, itself included
  SELECT DISTINCT other AS node, least(centre, least_other) AS parent
  FROM (SELECT centre, other, min(other) OVER (PARTITION BY centre) AS least_other FROM both_ways) AS seen
  WHERE other > centre
), small_star AS (
  -- of each node: its lesser neighbours, and the node itself, are joined to the least of them
  SELECT node, parent, min(parent) OVER (PARTITION BY node) AS least_parent FROM large_star
)
SELECT node, least_parent AS parent FROM small_star
UNION
SELECT parent AS node, least_parent AS parent FROM small_star WHERE parent <> least_parent;
