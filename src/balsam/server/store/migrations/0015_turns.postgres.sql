-- outside a transaction
-- People who share a Site take turns in an acquire: their waiting Jobs stand one person after another. The indexes of
-- before go at once, as the planner would take one of them for a person who has few Jobs among many. An older process
-- that is still running sorts the waiting Jobs meanwhile.
DROP INDEX CONCURRENTLY IF EXISTS jobs_waiting;
CREATE INDEX CONCURRENTLY jobs_waiting ON jobs (
    site_id, submitter_id, priority DESC, id, wall_time_min, num_nodes, ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
DROP INDEX CONCURRENTLY IF EXISTS jobs_waiting_by_size;
CREATE INDEX CONCURRENTLY jobs_waiting_by_size ON jobs (
    site_id, submitter_id, wall_time_min DESC, num_nodes DESC, id, ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
DROP INDEX CONCURRENTLY IF EXISTS hooks_waiting;
CREATE INDEX CONCURRENTLY hooks_waiting ON jobs (site_id, submitter_id, priority DESC, id)
    WHERE session_id IS NULL AND state IN (4, 7, 8, 9);

-- Rows that an older process writes meanwhile have nobody's number, which has its turn as everybody has.
ALTER TABLE runnable_tags ADD COLUMN IF NOT EXISTS submitter_id BIGINT NOT NULL DEFAULT 0;
UPDATE runnable_tags SET submitter_id = jobs.submitter_id FROM jobs WHERE jobs.id = runnable_tags.job_id;
DROP INDEX CONCURRENTLY IF EXISTS runnable_tags_by_person;
CREATE INDEX CONCURRENTLY runnable_tags_by_person ON runnable_tags (tag, site_id, submitter_id, rank, job_id);

DROP INDEX CONCURRENTLY IF EXISTS jobs_runnable;
DROP INDEX CONCURRENTLY IF EXISTS jobs_runnable_by_size;
DROP INDEX CONCURRENTLY IF EXISTS jobs_awaiting_hook;
