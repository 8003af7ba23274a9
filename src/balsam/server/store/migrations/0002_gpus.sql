-- Acquire passes over Jobs that need more GPUs on a node than the launcher has. The count is taken from columns that
-- stand inside the indexes, for the same reason as the others do.
DROP INDEX jobs_runnable;
CREATE INDEX jobs_runnable ON jobs (
    site_id, priority DESC, id, wall_time_min, num_nodes, ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
DROP INDEX jobs_runnable_by_size;
CREATE INDEX jobs_runnable_by_size ON jobs (
    site_id, wall_time_min DESC, num_nodes DESC, id, ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);

ALTER TABLE runnable_tags ADD COLUMN gpus_per_rank REAL NOT NULL DEFAULT 0;
UPDATE runnable_tags SET gpus_per_rank = (SELECT gpus_per_rank FROM jobs WHERE id = job_id);

-- The most GPUs on one of the launcher's nodes, as its last acquire said; unknown before the first.
ALTER TABLE sessions ADD COLUMN max_gpus_per_node INTEGER;
