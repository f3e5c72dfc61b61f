-- Live tasks that nobody prompts are asked to end, and given until then.
-- The new columns are false and null in all rows there are, so its index is empty; the previous release writes none of it.

alter table finishing_tasks
    add column idle   boolean not null default false,  -- because nobody prompted it
    add column due_at timestamptz;                     -- null: nobody hurries it
-- squawk-ignore require-concurrent-index-creation
create index finishing_tasks_due on finishing_tasks (due_at) where due_at is not null;
