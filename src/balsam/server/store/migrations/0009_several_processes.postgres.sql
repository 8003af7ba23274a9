-- What PostgreSQL needs beside the steps for both databases, at a time when its tables are empty.

-- An index of SQLite ends with the row's id by itself; lists are read in order of id.
DROP INDEX jobs_held, jobs_by_owner, jobs_by_state, jobs_by_update, jobs_by_app, jobs_by_batch_job, jobs_by_failure;
CREATE INDEX jobs_held ON jobs (session_id, grant_seq, id) WHERE session_id IS NOT NULL;
CREATE INDEX jobs_by_owner ON jobs (owner_id, id);
CREATE INDEX jobs_by_state ON jobs (site_id, state, id);
CREATE INDEX jobs_by_update ON jobs (owner_id, last_update, id);
CREATE INDEX jobs_by_app ON jobs (app_id, id);
CREATE INDEX jobs_by_batch_job ON jobs (batch_job_id, id) WHERE batch_job_id IS NOT NULL;
CREATE INDEX jobs_by_failure ON jobs (owner_id, failure, id) WHERE failure IS NOT NULL;
DROP INDEX events_by_time;
CREATE INDEX events_by_time ON events (owner_id, "timestamp", id);

-- Rows are inserted by COPY, which can only leave out what has a default.
ALTER TABLE jobs
    ALTER token SET DEFAULT 0,
    ALTER attempt SET DEFAULT 0,
    ALTER lost_attempts SET DEFAULT 0,
    ALTER grant_seq SET DEFAULT 0,
    ALTER cancel_requested SET DEFAULT 0,
    ALTER pending_file_cleanup SET DEFAULT 0;

-- Each writing process adds to rows of its own; the numbers are their sums.
ALTER TABLE state_counts ADD COLUMN shard BIGINT NOT NULL DEFAULT 0;
ALTER TABLE state_counts DROP CONSTRAINT state_counts_pkey;
ALTER TABLE state_counts ADD PRIMARY KEY (owner_id, site_id, app_id, state, shard);
ALTER TABLE state_counts SET (fillfactor = 50);

-- Ids come from sequences.
DROP TABLE sequences;

-- Wakes that are too long for a notification. Worth nothing after a crash.
CREATE UNLOGGED TABLE notes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- A Job is written six times in its life: what is dead must go before there are millions.
ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE runnable_tags SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- What SQLite can do with JSON texts. A text that has a NUL in it can't be a text here, and is equal to nothing.
CREATE FUNCTION json_at(doc TEXT, path TEXT[]) RETURNS json LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    found json := doc;
    key TEXT;
BEGIN
    FOREACH key IN ARRAY path LOOP
        IF json_typeof(found) <> 'object' THEN
            RETURN NULL;
        END IF;
        found := found -> key;
    END LOOP;
    RETURN found;
END $$;
CREATE FUNCTION json_kind(value json) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE json_typeof(value)
        WHEN 'string' THEN 'text'
        WHEN 'boolean' THEN value::text
        WHEN 'number' THEN CASE WHEN value::text ~ '^-?[0-9]+$' THEN 'integer' ELSE 'real' END
        ELSE json_typeof(value)
    END
$$;
CREATE FUNCTION json_words(value json) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN strpos(value::text, '\u0000') = 0 THEN value #>> '{}' END
$$;
CREATE FUNCTION json_amount(value json) RETURNS NUMERIC LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN json_typeof(value) = 'number' THEN value::text::numeric END
$$;
CREATE FUNCTION json_type(doc TEXT, path TEXT[]) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT json_kind(json_at(doc, path))
$$;
CREATE FUNCTION json_extract(doc TEXT, path TEXT[]) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT json_words(json_at(doc, path))
$$;
CREATE FUNCTION json_number(doc TEXT, path TEXT[]) RETURNS NUMERIC LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT json_amount(json_at(doc, path))
$$;
CREATE FUNCTION json_each(doc TEXT, path TEXT[]) RETURNS TABLE (value TEXT, type TEXT, number NUMERIC)
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT json_words(m), json_kind(m), json_amount(m)
    FROM (SELECT json_at(doc, path) AS list) l, json_array_elements(
        CASE WHEN json_typeof(l.list) = 'array' THEN l.list ELSE '[]' END
    ) m
$$;
