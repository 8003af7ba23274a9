-- outside a transaction
-- Narrow as it is, the planner took this index for every acquire and sorted all that waits, until it had counted the
-- Jobs. Only what asks for the shortest says that a time is not negative, which no Job's is.
DROP INDEX CONCURRENTLY IF EXISTS jobs_waiting_shortest;
CREATE INDEX CONCURRENTLY jobs_waiting_shortest ON jobs (site_id, submitter_id, wall_time_min)
    WHERE session_id IS NULL AND state IN (5, 10) AND wall_time_min >= 0;
