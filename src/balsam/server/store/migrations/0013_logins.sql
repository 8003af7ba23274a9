-- A login under way: a program that waits with a device code, and a person in a browser. Rows live for minutes.
CREATE TABLE device_logins (
    id INTEGER PRIMARY KEY,
    device_hash TEXT NOT NULL UNIQUE,
    user_code TEXT NOT NULL UNIQUE,
    client TEXT NOT NULL,
    address TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    polled_at INTEGER,
    status TEXT NOT NULL,
    user_id INTEGER REFERENCES users (id),
    browser_hash TEXT NOT NULL,
    provider TEXT NOT NULL,
    state_hash TEXT NOT NULL,
    nonce TEXT NOT NULL,
    verifier TEXT NOT NULL
);
CREATE INDEX device_logins_by_state ON device_logins (state_hash);

-- Who of a provider is which account here.
CREATE TABLE identities (
    id INTEGER PRIMARY KEY,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id INTEGER NOT NULL REFERENCES users (id),
    created_at INTEGER NOT NULL,
    UNIQUE (issuer, subject)
);
