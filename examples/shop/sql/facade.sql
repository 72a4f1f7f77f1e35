-- Where each domain is read and written: 'monolith' or 'service'.
CREATE TABLE route (
    domain TEXT PRIMARY KEY,
    reads  TEXT NOT NULL CHECK (reads IN ('monolith', 'service')),
    writes TEXT NOT NULL CHECK (writes IN ('monolith', 'service'))
);
INSERT INTO route VALUES
    ('users', 'monolith', 'monolith'), ('orders', 'monolith', 'monolith'), ('shipments', 'monolith', 'monolith');

-- What `shop migrate` has done.
CREATE TABLE step (
    phase   INTEGER NOT NULL,
    what    TEXT NOT NULL,
    done_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
