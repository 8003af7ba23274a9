-- What a token may be used for. Those that are there were made by logins, for agents and for launchers.
ALTER TABLE tokens ADD COLUMN scopes TEXT NOT NULL DEFAULT '["all"]';
