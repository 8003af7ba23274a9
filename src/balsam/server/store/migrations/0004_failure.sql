-- The class of what went wrong last (domain/failure.py), and the attempts that count against max_attempts since the last
-- retry. Until now every attempt that was not lost counted.
ALTER TABLE jobs ADD COLUMN spent_attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN failure TEXT;
UPDATE jobs SET spent_attempts = attempt - lost_attempts - CASE WHEN state = 6 THEN 1 ELSE 0 END;
UPDATE jobs SET spent_attempts = 0 WHERE spent_attempts < 0;
CREATE INDEX jobs_by_failure ON jobs (owner_id, failure) WHERE failure IS NOT NULL;

-- Whether the parent is still to finish. Without it, each of ten thousand parents that finishes would look at all others
-- of the child that waits for them.
ALTER TABLE job_parents ADD COLUMN unfinished INTEGER NOT NULL DEFAULT 1;
UPDATE job_parents SET unfinished = 0 WHERE parent_id IN (SELECT id FROM jobs WHERE state = 13);
CREATE INDEX job_parents_unfinished ON job_parents (child_id) WHERE unfinished = 1;
