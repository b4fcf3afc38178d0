-- phase: expand
-- up
create table notes (
  tenant_id uuid not null default pk.tenant_id(),
  id uuid not null,
  text text not null,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id));
create index notes_created on notes (tenant_id, created_at, id);
select pk.protect('notes');
-- down
drop table notes;
