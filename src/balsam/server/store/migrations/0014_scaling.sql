-- What a Site's agent tells of how it asks for allocations by itself, and of its node-hours; '{}' before that.
ALTER TABLE sites ADD COLUMN scaling TEXT NOT NULL DEFAULT '{}';
