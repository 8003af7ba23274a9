-- What the last attempt of a Job returned or raised, by the Job's id: JSON text (wire.results.JobResult).
CREATE TABLE results (
    id INTEGER PRIMARY KEY,
    attempt INTEGER NOT NULL,
    content TEXT NOT NULL
);
