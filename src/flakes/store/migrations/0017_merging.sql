-- What is to become of the handles that attempts stored: the queue in which they are brought into what is selected.
-- Safe while the previous release runs: it stores handles without a row here, which are simply not brought in.
-- Indexes are made within the migration's transaction, on a new table.

create table workspace_merges (
    workspace_id   text collate "C" primary key references workspaces on delete cascade,
    run_id         text collate "C" not null references runs on delete cascade,
    task_id        text collate "C" not null,
    assignment_id  text collate "C" not null,
    state          text not null default 'queued' check (state in (
                       'queued', 'verifying', 'resolving', 'promoted', 'contained', 'conflict', 'unverified',
                       'failed', 'kept')),
    selected_id    text collate "C",               -- what it was merged with last
    merged_id      text collate "C",               -- and what came of that
    helper_task_id text collate "C",               -- the task that tests or resolves it
    paths          json,                           -- that conflict
    reason         text,
    created_at     timestamptz not null default now(),
    settled_at     timestamptz
);
create index workspace_merges_open on workspace_merges (run_id) where settled_at is null;
create index workspace_merges_of_run on workspace_merges (run_id, workspace_id desc);
create index workspace_merges_of_task on workspace_merges (task_id);
create index workspace_merges_helpers on workspace_merges (helper_task_id) where helper_task_id is not null;

-- How many of its handles are open; and how its results are tested and resolved.
alter table runs add column merging integer not null default 0;
alter table runs add column merge_policy json;
