-- The publication says what the server sends. It has INSERT alone (rule 11): with UPDATE every mark would travel back
-- through the stream. It sends a partitioned table under the table's own name. It needs the tables' owner and CREATE
-- on the database.

-- name: create-publication
CREATE PUBLICATION {{publication}} FOR TABLE {{tables}}
    WITH (publish = 'insert', publish_via_partition_root = true);

-- `setup` runs this before there is a slot, and `setup --add-table` runs it while nothing decodes through the slot
-- (rule 16). On servers before 15.13, 16.9 and 17.5 rows that open transactions insert meanwhile may be passed over.
-- On no server does the slot send the rows of a table from before it joined.
-- name: add-tables
ALTER PUBLICATION {{publication}} ADD TABLE {{tables}};
