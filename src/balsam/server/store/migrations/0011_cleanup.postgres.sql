-- outside a transaction
-- Jobs whose files are still to be removed, in order of id for each Site and state.
DROP INDEX CONCURRENTLY IF EXISTS jobs_to_clean;
CREATE INDEX CONCURRENTLY jobs_to_clean ON jobs (site_id, state, id) WHERE pending_file_cleanup = 1;
