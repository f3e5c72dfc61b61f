-- Budgets that tasks share: what running attempts have reserved, what owners added, and time at work.
--
-- Safe while the previous release runs: it writes none of this, and what is added has a default.
-- Indexes are made within the migration's transaction, on tables that are new.

-- Up to where each running attempt may spend. Rows of ended ones go with the next reservation of their run.
create table budget_reservations (
    assignment_id  text collate "C" primary key,
    task_id        text collate "C" not null,
    run_id         text collate "C" not null,
    tokens         bigint not null,
    cost_micro_usd bigint not null,
    wall_ms        bigint not null
) with (fillfactor = 70);
create index budget_reservations_of_run on budget_reservations (run_id);

-- One an approved request, so that none counts twice. A scope is a run or a task.
create table budget_extensions (
    permission_id text collate "C" primary key,
    run_id        text collate "C" not null,
    scope_id      text collate "C" not null,
    bound         text not null check (bound in ('tokens', 'costMicroUsd', 'wallMs')),
    amount        bigint not null
);
create index budget_extensions_of_scope on budget_extensions (scope_id);
create index budget_extensions_of_run on budget_extensions (run_id);

alter table attempt_usage add column worked_ms bigint not null default 0;
