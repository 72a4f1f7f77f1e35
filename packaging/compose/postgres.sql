-- `outboxd setup` makes the rest. It gives its role no password, and this server asks for one.
CREATE ROLE outboxd LOGIN REPLICATION PASSWORD 'outboxd';
