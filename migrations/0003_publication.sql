-- What the server sends. Only INSERT: with UPDATE every mark would travel back through the stream. A partitioned table
-- is published under its own name. It needs the tables' owner and CREATE on the database.

-- name: create-publication
CREATE PUBLICATION {{publication}} FOR TABLE {{tables}}
    WITH (publish = 'insert', publish_via_partition_root = true);

-- Only before there is a slot: rows that open transactions insert meanwhile may be passed over on servers before
-- 15.13, 16.9 and 17.5, and in any case the slot's rows from before are not sent.
-- name: add-tables
ALTER PUBLICATION {{publication}} ADD TABLE {{tables}};
