-- What a Session is for: running Jobs, or the hooks that the Site's agent runs.
ALTER TABLE sessions ADD COLUMN purpose TEXT NOT NULL DEFAULT 'run';

-- 4, 7, 8 and 9 are STAGED_IN, RUN_DONE, RUN_ERROR and RUN_TIMEOUT: a Job that stands there waits for a hook, as steps
-- for which there is nothing to do are taken at once.
CREATE INDEX jobs_awaiting_hook ON jobs (site_id, priority DESC, id) WHERE session_id IS NULL AND state IN (4, 7, 8, 9);
