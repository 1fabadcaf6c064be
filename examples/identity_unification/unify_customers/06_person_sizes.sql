-- How many persons have how many records, and in how many sources. Look here first when a rule is too lax:
-- one person with thousands of records is a shared identifier that slipped through.
CREATE OR REPLACE TABLE person_sizes USING DELTA AS
SELECT
  size_class,
  count(*) AS persons,
  sum(records) AS records,
  max(records) AS largest,
  count_if(sources > 1) AS across_sources
FROM (
  SELECT canonical_id, sum(records) AS records, count(*) AS sources, CASE
    WHEN sum(records) = 1 THEN '1'
    WHEN sum(records) <= 5 THEN '2-5'
    WHEN sum(records) <= 20 THEN '6-20'
    WHEN sum(records) <= 100 THEN '21-100'
    ELSE '101 and more; look at these' END AS size_class
  FROM (SELECT canonical_id, source, count(*) AS records FROM identity_lookup GROUP BY canonical_id, source) AS parts
  GROUP BY canonical_id
) AS persons
GROUP BY size_class;
