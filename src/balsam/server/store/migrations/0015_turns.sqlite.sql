-- People who share a Site take turns in an acquire: their waiting Jobs stand one person after another.
DROP INDEX jobs_runnable;
CREATE INDEX jobs_waiting ON jobs (
    site_id, submitter_id, priority DESC, id, wall_time_min, num_nodes, ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
DROP INDEX jobs_runnable_by_size;
CREATE INDEX jobs_waiting_by_size ON jobs (
    site_id, submitter_id, wall_time_min DESC, num_nodes DESC, id, ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
DROP INDEX jobs_awaiting_hook;
CREATE INDEX hooks_waiting ON jobs (site_id, submitter_id, priority DESC, id)
    WHERE session_id IS NULL AND state IN (4, 7, 8, 9);

ALTER TABLE runnable_tags ADD COLUMN submitter_id INTEGER NOT NULL DEFAULT 0;
UPDATE runnable_tags SET submitter_id = (SELECT submitter_id FROM jobs WHERE id = job_id);
CREATE INDEX runnable_tags_by_person ON runnable_tags (
    tag, site_id, submitter_id, rank, job_id, wall_time_min, num_nodes, ranks_per_node, gpus_per_rank, node_packing_count
);
