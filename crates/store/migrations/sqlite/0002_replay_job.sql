-- One row a replay: who read what again, why, how far it is and what came of it. Written once a second by the one
-- process that runs it; whoever resumes a job puts another runner into it, and the one before stops.
CREATE TABLE replay_job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    who TEXT NOT NULL,
    reason TEXT,
    what TEXT NOT NULL CHECK (json_valid(what)),
    position TEXT NOT NULL CHECK (json_valid(position)),
    counts TEXT NOT NULL CHECK (json_valid(counts)),
    state TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
    runner TEXT NOT NULL,
    note TEXT,
    started TEXT NOT NULL,
    updated TEXT NOT NULL
) STRICT;
