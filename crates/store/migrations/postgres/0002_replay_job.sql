-- One row a replay: who read what again, why, how far it is and what came of it. Written once a second by the one
-- process that runs it; whoever resumes a job puts another runner into it, and the one before stops.
CREATE TABLE replay_job (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    who text NOT NULL,
    reason text,
    what jsonb NOT NULL,
    position jsonb NOT NULL,
    counts jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
    runner text NOT NULL,
    note text,
    started timestamptz NOT NULL,
    updated timestamptz NOT NULL
);

COMMENT ON TABLE replay_job IS 'One row a replay of publish events.';
COMMENT ON COLUMN replay_job.position IS 'By partition, the next offset to read; everything before it is written.';
COMMENT ON COLUMN replay_job.counts IS 'What became of the records before the position.';
COMMENT ON COLUMN replay_job.runner IS 'The process that runs the job, or ran it last.';
COMMENT ON COLUMN replay_job.note IS 'Why it ended, where it did not end with its range.';
