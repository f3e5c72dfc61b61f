-- Replay of mutations, deleting live runs, bounded logs, and lists that read an index in every combination.
-- Indexes are made within the migration's transaction: writers wait for as long as that takes.

-- The first answer to a mutation that carried an Idempotency-Key, kept for a day. The digest is of the
-- method, the path and the key; the body is the answer's, sealed where it holds a secret.
create table idempotency_keys (
    scope_id    text collate "C" not null,   -- the account (or the host or sandbox) that sent it
    key_digest  bytea not null,
    body_digest bytea not null,              -- of the request, to tell a replay from a conflict
    status      smallint not null,
    answer      bytea not null,
    sealed      boolean not null default false,
    created_at  timestamptz not null default now(),
    primary key (scope_id, key_digest)
);
create index idempotency_keys_age on idempotency_keys (created_at);

-- A run that is to be deleted as soon as nothing of it lives any more.
alter table runs add column delete_requested_at timestamptz;
-- squawk-ignore require-concurrent-index-creation
create index runs_deleting on runs (delete_requested_at) where delete_requested_at is not null;
-- squawk-ignore require-concurrent-index-creation
create index runs_by_project_state on runs (project_id, state, run_id desc);

-- Deleted runs whose events are still there for those who follow them.
create table deleted_runs (
    run_id     text collate "C" primary key,
    deleted_at timestamptz not null default now()
);
create index deleted_runs_age on deleted_runs (deleted_at);

-- Tasks of a run are listed in the order of their ids.
-- squawk-ignore require-concurrent-index-creation
create index tasks_of_run on tasks (run_id, task_id);

-- A chunk knows its size. One with dropped_bytes stands for lines that were dropped, and says so.
alter table log_chunks add column size_bytes integer not null default 0;
alter table log_chunks add column dropped_bytes bigint;
-- squawk-ignore require-concurrent-index-creation
create unique index log_chunks_dropped on log_chunks (assignment_id) where dropped_bytes is not null;

-- How large the log of a task is, over all its attempts.
create table task_logs (
    task_id    text collate "C" primary key,
    size_bytes bigint not null
) with (fillfactor = 50);
