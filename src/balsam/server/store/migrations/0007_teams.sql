-- Sites and campaigns are shared with teams. Everything still belongs to a Site and so to its owner; who submitted or
-- synced it is noted beside that.
CREATE TABLE teams (
    id INTEGER PRIMARY KEY,
    founder_id INTEGER NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (founder_id, name)
);
CREATE TABLE memberships (
    id INTEGER PRIMARY KEY,
    team_id INTEGER NOT NULL REFERENCES teams (id),
    user_id INTEGER NOT NULL REFERENCES users (id),
    is_leader INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (user_id, team_id)
);
CREATE INDEX memberships_by_team ON memberships (team_id);
CREATE TABLE shares (
    id INTEGER PRIMARY KEY,
    owner_id INTEGER NOT NULL REFERENCES users (id),
    team_id INTEGER NOT NULL REFERENCES teams (id),
    site_id INTEGER REFERENCES sites (id),
    campaign TEXT,
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    CHECK ((site_id IS NULL) <> (campaign IS NULL))
);
CREATE INDEX shares_by_team ON shares (team_id);
CREATE INDEX shares_by_owner ON shares (owner_id);
CREATE UNIQUE INDEX shares_of_site ON shares (site_id, team_id) WHERE site_id IS NOT NULL;
CREATE UNIQUE INDEX shares_of_campaign ON shares (owner_id, campaign, team_id) WHERE campaign IS NOT NULL;

ALTER TABLE apps ADD COLUMN author_id INTEGER NOT NULL DEFAULT 0;
UPDATE apps SET author_id = owner_id;
ALTER TABLE batch_jobs ADD COLUMN submitter_id INTEGER NOT NULL DEFAULT 0;
UPDATE batch_jobs SET submitter_id = owner_id;
ALTER TABLE jobs ADD COLUMN submitter_id INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET submitter_id = owner_id;
-- A Site reads what a submitter sent for a Job of its, whoever that is.
CREATE INDEX blobs_by_hash ON blobs (sha256);
