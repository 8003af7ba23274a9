-- A higher priority goes first in every order. Each person's shortest Job is still looked for by itself.
DROP INDEX jobs_waiting_by_size;
CREATE INDEX jobs_waiting_shortest ON jobs (site_id, submitter_id, wall_time_min)
    WHERE session_id IS NULL AND state IN (5, 10);
CREATE INDEX jobs_waiting_longest ON jobs (
    site_id, submitter_id, priority DESC, wall_time_min DESC, num_nodes DESC, id,
    ranks_per_node, gpus_per_rank, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
CREATE INDEX jobs_waiting_smallest ON jobs (
    site_id, submitter_id, priority DESC, num_nodes, node_packing_count DESC, wall_time_min DESC, id,
    ranks_per_node, gpus_per_rank
)
    WHERE session_id IS NULL AND state IN (5, 10);
