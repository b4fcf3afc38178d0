-- phase: expand
-- up
-- What plugins promised of the data of each type of event. `promised` is the schema that was declared first: its fields are
-- there for ever. `known` has besides what later versions gained, which may be missing again when one is rolled back.
create table event_types (
  type text collate "C" primary key,
  area text collate "C" not null,
  promised json not null,
  known json not null,
  promised_at timestamptz not null default now(),
  gained_at timestamptz);
comment on table event_types is 'no tenant: what the data of each type of event holds';
create index event_types_area on event_types (area);

-- The types of an area. Until this transaction ends nobody else declares any; reading goes on.
create function lock_event_types(of_area text) returns setof event_types
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  lock table event_types in share row exclusive mode;
  return query select t.* from event_types t where t.area = of_area order by t.type;
end $$;

-- Write down a type that is declared first, or what one has gained.
create function keep_event_type(of_type text, of_area text, now_promised json, now_known json) returns void
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  insert into event_types as t (type, area, promised, known) values (of_type, of_area, now_promised, now_known)
    on conflict (type) do update set known = now_known, gained_at = now();
end $$;

-- Types after one, of an area or of all, in order.
create function list_event_types(of_area text, after text, most integer) returns setof event_types
  language plpgsql stable security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  return query select t.* from event_types t
    where (of_area is null or t.area = of_area) and (after is null or t.type > after) order by t.type limit most;
end $$;

-- Forget what an area promised, so that it may begin afresh; how many types. For a plugin whose data is destroyed.
create function forget_event_types(of_area text) returns bigint
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  gone bigint;
begin
  if not pk.entered() then return 0; end if;
  delete from event_types t where t.area = of_area;
  get diagnostics gone = row_count;
  return gone;
end $$;

-- down
drop function forget_event_types(text), list_event_types(text, text, integer), keep_event_type(text, text, json, json),
  lock_event_types(text);
drop table event_types;
