-- Files on their way through the service. A blob's bytes are in the storage under `place`; `site_id` 0 is the user.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL REFERENCES users (id),
    site_id INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    place TEXT NOT NULL UNIQUE,
    uses INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    UNIQUE (owner_id, site_id, sha256)
);
CREATE INDEX blobs_by_owner ON blobs (owner_id, size_bytes);
CREATE INDEX blobs_unused ON blobs (last_used_at) WHERE uses = 0;

CREATE TABLE transfer_items (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL REFERENCES users (id),
    site_id INTEGER NOT NULL REFERENCES sites (id),
    job_id INTEGER NOT NULL,
    slot TEXT NOT NULL,
    direction TEXT NOT NULL,
    local_path TEXT NOT NULL,
    remote_path TEXT NOT NULL,
    location_alias TEXT NOT NULL,
    recursive INTEGER NOT NULL,
    state TEXT NOT NULL,
    task_id TEXT NOT NULL,
    transfer_info TEXT NOT NULL,
    content TEXT NOT NULL,
    origin TEXT NOT NULL,
    holds_content INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    last_update INTEGER NOT NULL,
    collected_at INTEGER
);
CREATE INDEX transfer_items_by_job ON transfer_items (job_id);
CREATE INDEX transfer_items_by_owner ON transfer_items (owner_id, id);
CREATE INDEX transfer_items_due ON transfer_items (site_id, id) WHERE state IN ('pending', 'active', 'inactive');
CREATE INDEX transfer_items_holding ON transfer_items (id, last_update) WHERE holds_content = 1;

CREATE TABLE blob_uses (item_id INTEGER NOT NULL, blob_id INTEGER NOT NULL, PRIMARY KEY (item_id, blob_id)) WITHOUT ROWID;
CREATE INDEX blob_uses_by_blob ON blob_uses (blob_id);
