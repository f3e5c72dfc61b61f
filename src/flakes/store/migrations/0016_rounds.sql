-- Live rounds: prompts to a task that stays up between them, and what each came to.
-- The new column of `waits` is null in all rows there are; its index holds pending waits only.

create table rounds (
    round_id     text collate "C" primary key,
    run_id       text collate "C" not null,
    task_id      text collate "C" not null,
    round_key    text collate "C" not null,
    operation_id text collate "C" not null,
    digest       bytea not null,             -- of the prompt, to tell a replay from a conflict
    ordinal      integer not null,           -- from 1, in the order they were sent
    prompt       text not null,
    payload      json,
    state        text not null default 'PROMPTED'
                 check (state in ('PROMPTED', 'COMPLETED', 'FAILED', 'CANCELLED')),
    delivered_to text collate "C",           -- the attempt that has it, or had it last
    result       bytea,                      -- digest of what completed it
    text         text,
    outputs      json,
    error        json,
    created_at   timestamptz not null default now(),
    delivered_at timestamptz,
    ended_at     timestamptz,
    unique (task_id, round_key),
    unique (task_id, operation_id),
    unique (task_id, ordinal)
) with (fillfactor = 70);
create index rounds_open on rounds (task_id, ordinal) where state = 'PROMPTED';

-- Tasks that are to end when their open rounds have.
create table finishing_tasks (
    task_id text collate "C" primary key,
    run_id  text collate "C" not null,
    since   timestamptz not null default now()
);

alter table waits add column round_id text collate "C";
-- squawk-ignore require-concurrent-index-creation
create index waits_of_round on waits (round_id) where state = 'pending' and round_id is not null;
