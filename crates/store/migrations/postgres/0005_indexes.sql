-- Settling looks no further back than its horizon, where the index on `created` finds the unsettled rows among those of a
-- few days. One of their own cost every new row an entry and every settled row its removal.
DROP INDEX IF EXISTS publication_unsettled;

-- Listings of what is rare, newest first: without these, a page of them reads the whole table. They cost only such rows.
CREATE INDEX publication_tor ON publication (created) WHERE tor;
CREATE INDEX publication_disputed ON publication (created) WHERE disputed;
