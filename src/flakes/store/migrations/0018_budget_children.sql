-- Owners may extend how many children a budget allows.
--
-- Safe while the previous release runs: it writes the bounds that it knows, and reads others as nothing.
-- The rows that are there pass the wider check as they passed the narrower one: nothing has to be looked at.

-- squawk-ignore ban-drop-constraint
alter table budget_extensions drop constraint budget_extensions_bound_check;
alter table budget_extensions add constraint budget_extensions_bound_known
    check (bound in ('tokens', 'costMicroUsd', 'wallMs', 'children')) not valid;
