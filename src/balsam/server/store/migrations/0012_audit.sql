-- Who did what to accounts, tokens, Sites and Apps. Rows are added and never changed; nothing removes them.
CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY,
    created_at INTEGER NOT NULL,
    event TEXT NOT NULL,
    actor_id INTEGER NOT NULL,
    actor TEXT NOT NULL,
    token_id INTEGER NOT NULL,
    address TEXT NOT NULL,
    request_id TEXT NOT NULL,
    target TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_by_actor ON audit_log (actor, id);
CREATE INDEX audit_by_event ON audit_log (event, id);

-- What an administrator sets for one account; NULL: as for everybody.
ALTER TABLE users ADD COLUMN disabled_at INTEGER;
ALTER TABLE users ADD COLUMN max_jobs INTEGER;
ALTER TABLE users ADD COLUMN quota_bytes INTEGER;
ALTER TABLE users ADD COLUMN requests_per_sec INTEGER;
