-- What running tasks have changed so far, and where that meets what others of their run change or have reserved.
-- Safe while the previous release runs: it knows nothing of either table, and an attempt that it ends leaves a row
-- that nobody reads any more and that goes with the run.

-- Of each live attempt, as it last said. The row goes with the attempt.
create table live_changes (
    assignment_id text collate "C" primary key,
    run_id        text collate "C" not null,
    task_id       text collate "C" not null,
    paths         text[] not null,              -- the first ones, by name
    updated_at    timestamptz not null default now()
);
create index live_changes_of_run on live_changes (run_id);

-- What was told of two tasks, so that it is told once.
create table workspace_overlaps (
    run_id        text collate "C" not null,
    task_id       text collate "C" not null,    -- who changes the paths; of two that do, the one with the smaller id
    other_task_id text collate "C" not null,
    how           text not null check (how in ('changed', 'reserved')),
    paths         text[] not null,
    found_at      timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    primary key (run_id, task_id, other_task_id, how)
);
