-- An allocation that takes no more Jobs and ends when those it has are over; older code goes on granting it some.
ALTER TABLE batch_jobs ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
