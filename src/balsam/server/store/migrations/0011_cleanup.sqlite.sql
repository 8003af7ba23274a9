-- Jobs whose files are still to be removed, in order of id for each Site and state.
CREATE INDEX jobs_to_clean ON jobs (site_id, state) WHERE pending_file_cleanup = 1;
