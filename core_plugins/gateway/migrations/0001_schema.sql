-- phase: expand
-- up
-- The plugin has a role of its own, and no table: kept answers are written by every plugin's transactions, so they are in the
-- kernel's own schema.
comment on schema gateway is 'kept answers are in pk.kept_answer';
-- down
comment on schema gateway is null;
