-- People who share a Site take turns with their transfers, too: what is due stands one person after another.
ALTER TABLE transfer_items ADD COLUMN submitter_id INTEGER NOT NULL DEFAULT 0;
UPDATE transfer_items SET submitter_id = coalesce((SELECT submitter_id FROM jobs WHERE jobs.id = job_id), 0);
CREATE INDEX transfer_items_turns ON transfer_items (site_id, submitter_id, id)
    WHERE state IN ('pending', 'active', 'inactive');
