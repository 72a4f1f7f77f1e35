-- The daemon's role, with no more rights than it needs.
-- It has no password yet: set one with `\password` in psql, or let pg_hba.conf know it by certificate or peer.
-- Replication connections are matched in pg_hba.conf by the database's name, as logical decoding belongs to one.

-- name: create-role
CREATE ROLE {{role}} LOGIN REPLICATION;

-- name: allow-replication
ALTER ROLE {{role}} LOGIN REPLICATION;

-- name: grant-connect
GRANT CONNECT ON DATABASE {{database}} TO {{role}};

-- name: grant-usage
GRANT USAGE ON SCHEMA {{schema}} TO {{role}};

-- The whole table: the backfill orders rows by system columns, which column rights do not cover.
-- name: grant-select
GRANT SELECT ON {{table}} TO {{role}};

-- With mark = "update": no other column can be changed.
-- name: grant-update
GRANT UPDATE ({{published_at}}) ON {{table}} TO {{role}};

-- With mark = "delete".
-- name: grant-delete
GRANT DELETE ON {{table}} TO {{role}};
