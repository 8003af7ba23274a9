-- Times are microseconds since 1970 UTC; states, actors and kinds are small numbers (store/codec.py); lists and
-- dictionaries are JSON text. Forward only: a later change is a new file.

CREATE TABLE sequences (name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    password_hash TEXT,
    is_admin INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE TABLE sites (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    path TEXT NOT NULL,
    hostname TEXT NOT NULL,
    allowed_projects TEXT NOT NULL,
    allowed_queues TEXT NOT NULL,
    optional_batch_job_params TEXT NOT NULL,
    transfer_locations TEXT NOT NULL,
    backfill_windows TEXT NOT NULL,
    queued_jobs TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_refresh INTEGER,
    agent_instance TEXT NOT NULL,
    agent_hostname TEXT NOT NULL,
    agent_pid INTEGER NOT NULL,
    agent_renewed_at INTEGER,
    deleted_at INTEGER,
    UNIQUE (owner_id, name)
);

CREATE TABLE apps (
    id INTEGER PRIMARY KEY,
    site_id INTEGER NOT NULL REFERENCES sites (id),
    owner_id INTEGER NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    synced_at INTEGER NOT NULL,
    definition TEXT NOT NULL,
    UNIQUE (site_id, name)
);
CREATE INDEX apps_by_owner ON apps (owner_id, name);

CREATE TABLE batch_jobs (
    id INTEGER PRIMARY KEY,
    site_id INTEGER NOT NULL REFERENCES sites (id),
    owner_id INTEGER NOT NULL REFERENCES users (id),
    num_nodes INTEGER NOT NULL,
    wall_time_min INTEGER NOT NULL,
    job_mode TEXT NOT NULL,
    queue TEXT NOT NULL,
    project TEXT NOT NULL,
    optional_params TEXT NOT NULL,
    filter_tags TEXT NOT NULL,
    partitions TEXT NOT NULL,
    scheduler_id TEXT,
    state TEXT NOT NULL,
    status_info TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    start_time INTEGER,
    end_time INTEGER,
    ended_at INTEGER
);
CREATE INDEX batch_jobs_by_site ON batch_jobs (site_id, state);
CREATE INDEX batch_jobs_by_owner ON batch_jobs (owner_id, state);

CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    site_id INTEGER NOT NULL REFERENCES sites (id),
    owner_id INTEGER NOT NULL REFERENCES users (id),
    batch_job_id INTEGER,
    kind TEXT NOT NULL,
    label TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    renewed_at INTEGER NOT NULL,
    ended_at INTEGER,
    acquire_seq INTEGER NOT NULL,
    report_seq INTEGER NOT NULL
);
CREATE INDEX sessions_open ON sessions (owner_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_by_site ON sessions (site_id);
CREATE INDEX sessions_by_batch_job ON sessions (batch_job_id) WHERE batch_job_id IS NOT NULL;

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY,
    token_hash TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id),
    site_id INTEGER REFERENCES sites (id),
    batch_job_id INTEGER,
    label TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER
);
CREATE INDEX tokens_by_user ON tokens (user_id);
CREATE INDEX tokens_by_site ON tokens (site_id) WHERE site_id IS NOT NULL;
CREATE INDEX tokens_by_batch_job ON tokens (batch_job_id) WHERE batch_job_id IS NOT NULL;

CREATE TABLE idempotency_keys (
    id INTEGER PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES users (id),
    key TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    reply TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (user_id, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL REFERENCES sites (id),
    app_id INTEGER NOT NULL REFERENCES apps (id),
    state INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    num_nodes INTEGER NOT NULL,
    ranks_per_node INTEGER NOT NULL,
    threads_per_rank INTEGER NOT NULL,
    threads_per_core INTEGER NOT NULL,
    gpus_per_rank REAL NOT NULL,
    node_packing_count INTEGER NOT NULL,
    wall_time_min INTEGER NOT NULL,
    max_attempts INTEGER,
    steps INTEGER NOT NULL,
    token INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    lost_attempts INTEGER NOT NULL,
    session_id INTEGER,
    grant_seq INTEGER NOT NULL,
    batch_job_id INTEGER,
    cancel_requested INTEGER NOT NULL,
    was_preprocessed INTEGER NOT NULL,
    event_seq INTEGER NOT NULL,
    return_code INTEGER,
    pending_file_cleanup INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    last_update INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    workdir TEXT NOT NULL,
    parameters TEXT NOT NULL,
    tags TEXT NOT NULL,
    data TEXT NOT NULL,
    launch_params TEXT NOT NULL,
    transfers TEXT NOT NULL,
    parent_ids TEXT NOT NULL
);
-- 5 and 10 are PREPROCESSED and RESTART_READY, 15 is CANCELLED. The order columns stand inside the partial indexes:
-- without them the search for the next Jobs reads every Job that was ever granted.
CREATE INDEX jobs_runnable ON jobs (
    site_id, priority DESC, id, wall_time_min, num_nodes, ranks_per_node, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
CREATE INDEX jobs_runnable_by_size ON jobs (
    site_id, wall_time_min DESC, num_nodes DESC, id, ranks_per_node, node_packing_count
)
    WHERE session_id IS NULL AND state IN (5, 10);
CREATE INDEX jobs_held ON jobs (session_id, grant_seq) WHERE session_id IS NOT NULL;
CREATE INDEX jobs_to_stop ON jobs (session_id)
    WHERE session_id IS NOT NULL AND (cancel_requested = 1 OR state = 15);
CREATE INDEX jobs_by_owner ON jobs (owner_id);
CREATE INDEX jobs_by_state ON jobs (site_id, state);
CREATE INDEX jobs_by_update ON jobs (owner_id, last_update);
CREATE INDEX jobs_by_app ON jobs (app_id);
CREATE INDEX jobs_by_batch_job ON jobs (batch_job_id) WHERE batch_job_id IS NOT NULL;

CREATE TABLE job_parents (
    parent_id INTEGER NOT NULL,
    child_id INTEGER NOT NULL,
    PRIMARY KEY (parent_id, child_id)
) WITHOUT ROWID;
CREATE INDEX job_parents_by_child ON job_parents (child_id);

-- `tag` is a 63-bit hash of (owner, key, value). The second table has only Jobs that can be granted now.
CREATE TABLE job_tags (tag INTEGER NOT NULL, job_id INTEGER NOT NULL, PRIMARY KEY (tag, job_id)) WITHOUT ROWID;
CREATE TABLE runnable_tags (
    tag INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    wall_time_min INTEGER NOT NULL,
    num_nodes INTEGER NOT NULL,
    ranks_per_node INTEGER NOT NULL,
    node_packing_count INTEGER NOT NULL,
    PRIMARY KEY (tag, site_id, rank, job_id)
) WITHOUT ROWID;

-- id = job id * 2^20 + place in the Job's history.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    reported_at INTEGER,
    attempt INTEGER NOT NULL,
    from_state INTEGER NOT NULL,
    to_state INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (owner_id, timestamp);

-- Kept with each commit; state 0 counts the events of the Jobs.
CREATE TABLE state_counts (
    owner_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    app_id INTEGER NOT NULL,
    state INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (owner_id, site_id, app_id, state)
) WITHOUT ROWID;
