-- Persons of whom only an anonymous device is known: kept out of campaigns.
CREATE OR REPLACE TABLE campaign_exclusions USING DELTA AS
SELECT canonical_id, 'no e-mail, no phone; only devices' AS reason
FROM master_customers
WHERE size(emails) = 0 AND size(phones) = 0;

-- Who carries a card has agreed to be written to.
MERGE INTO campaign_exclusions AS t
USING (SELECT canonical_id FROM master_customers WHERE loyalty_id IS NOT NULL) AS m
ON t.canonical_id = m.canonical_id
WHEN MATCHED THEN DELETE;
