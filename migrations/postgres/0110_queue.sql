-- A claim takes the nearest deadlines of what is due: in this order, so that it never sorts thousands for the next one.
create index job_next on job (deadline, id, kind, run_at) where state = 'queued';
-- Whether anything is due is asked of kinds.
drop index job_due;
create index job_due on job (run_at, kind) where state = 'queued';
