-- outside a transaction
-- In the order of what waits, with numbers that grow: (-priority, id) >= (...) is a place at which an index can be
-- entered, which an index with one column descending is not. An older process that is still running sorts the waiting
-- Jobs meanwhile.
DROP INDEX CONCURRENTLY IF EXISTS jobs_waiting_in_order;
CREATE INDEX CONCURRENTLY jobs_waiting_in_order ON jobs (
    site_id, submitter_id, (-priority), id, wall_time_min, num_nodes, ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
DROP INDEX CONCURRENTLY IF EXISTS hooks_waiting_in_order;
CREATE INDEX CONCURRENTLY hooks_waiting_in_order ON jobs (site_id, submitter_id, (-priority), id)
    WHERE session_id IS NULL AND state IN (4, 7, 8, 9);
DROP INDEX CONCURRENTLY IF EXISTS jobs_waiting;
DROP INDEX CONCURRENTLY IF EXISTS hooks_waiting;
