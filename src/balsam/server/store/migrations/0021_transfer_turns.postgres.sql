-- outside a transaction
-- People who share a Site take turns with their transfers, too: what is due stands one person after another. Rows that an
-- older process writes meanwhile have nobody's number, which has its turn as everybody has.
ALTER TABLE transfer_items ADD COLUMN IF NOT EXISTS submitter_id BIGINT NOT NULL DEFAULT 0;
UPDATE transfer_items SET submitter_id = jobs.submitter_id FROM jobs WHERE jobs.id = transfer_items.job_id;
DROP INDEX CONCURRENTLY IF EXISTS transfer_items_turns;
CREATE INDEX CONCURRENTLY transfer_items_turns ON transfer_items (site_id, submitter_id, id)
    WHERE state IN ('pending', 'active', 'inactive');
