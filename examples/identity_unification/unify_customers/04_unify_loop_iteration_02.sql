-- Connected components by alternating large-star and small-star
-- (R. Kiveris, S. Lattanzi, V. Mirrokni, V. Rastogi, S. Vassilvitskii: "Connected Components in MapReduce and
-- Beyond", SoCC 2014). A round joins each node to the least one that it can see; a chain of n records takes some
-- log2(n) rounds and not n, and there are never more edges than in the beginning. In the end every node hangs
-- on the least node of its component, and a further round changes nothing.
CREATE OR REPLACE TABLE unify_loop_2 USING DELTA AS
WITH both_ways AS (
  SELECT node AS centre, parent AS other FROM unify_loop_1
  UNION ALL
  SELECT parent AS centre, node AS other FROM unify_loop_1
), least_around AS (
  SELECT centre, least(centre, min(other)) AS least_node FROM both_ways GROUP BY centre
), large_star AS (
  -- the greater neighbours of each node are joined to the least node around it, itself included
  SELECT DISTINCT b.other AS node, l.least_node AS parent
  FROM both_ways b JOIN least_around l ON l.centre = b.centre
  WHERE b.other > b.centre
), least_parents AS (
  SELECT node, min(parent) AS least_parent FROM large_star GROUP BY node
)
-- small-star: each node, and its lesser neighbours, are joined to the least of those
SELECT node, least_parent AS parent FROM least_parents
UNION
SELECT s.parent AS node, l.least_parent AS parent
FROM large_star s JOIN least_parents l ON l.node = s.node
WHERE s.parent <> l.least_parent;
