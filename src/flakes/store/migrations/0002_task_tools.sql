-- What running tasks write besides logs and results: their workpads, and the paths they reserve.
-- Like the other tables of a run's tasks these have no foreign keys; `runs.delete` removes their rows.

-- The current version of each workpad that was ever written: narrow, joined into lists of tasks, and the
-- row that savers queue up for.
create table workpads (
    task_id    text collate "C" primary key,
    version    integer not null,
    updated_at timestamptz not null
) with (fillfactor = 80);

-- Every version, for good. Exactly one of the two authors is set.
create table workpad_versions (
    task_id       text collate "C" not null,
    version       integer not null,
    body_markdown text not null,
    user_id       text collate "C",
    assignment_id text collate "C",
    created_at    timestamptz not null default now(),
    primary key (task_id, version),
    check ((user_id is null) <> (assignment_id is null))
);

-- Live reservations only: a row goes in the transaction that ends its assignment. The key is also the
-- last guard against two holders of one selector.
create table file_reservations (
    run_id        text collate "C" not null,
    path          text collate "C" not null,
    kind          text collate "C" not null check (kind in ('exact', 'prefix')),
    assignment_id text collate "C" not null,
    task_id       text collate "C" not null,
    reason        text,
    created_at    timestamptz not null default now(),
    primary key (run_id, path, kind)
);
create index file_reservations_of_assignment on file_reservations (assignment_id);
