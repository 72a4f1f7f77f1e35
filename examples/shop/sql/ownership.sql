-- Which modules this database may write. Every write reads its row FOR SHARE, so taking a module
-- away waits for the writes that are under way, and every later one is refused.
CREATE TABLE module_state (
    module  TEXT PRIMARY KEY,
    owner   BOOLEAN NOT NULL
);

-- What a row was called in the monolith, so that an id that a client has kept still works.
CREATE TABLE legacy_ids (
    kind    TEXT NOT NULL,
    serial  INTEGER NOT NULL,
    id      UUID NOT NULL,
    PRIMARY KEY (kind, serial)
);
