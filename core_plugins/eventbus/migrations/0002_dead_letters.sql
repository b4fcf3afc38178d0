-- phase: expand
-- up
-- Events that a consumer could not handle, and those of the same entity that came after: they wait behind it, so that order
-- survives. An entity is parked for a consumer as long as it has a letter here.
create table dead_letters (
  tenant_id uuid not null,
  id uuid not null,
  consumer text collate "C" not null,
  topic text collate "C" not null,
  partition smallint not null,
  "offset" bigint not null,
  event_id uuid not null,
  source text collate "C" not null,
  type text collate "C" not null,
  subject text collate "C" not null,
  time timestamptz not null,
  sequence bigint not null,
  data json not null,
  actor text not null,
  traceparent text not null,
  reason text not null,
  attempts integer not null,
  parked_at timestamptz not null default clock_timestamp(),
  replay_at timestamptz,
  version bigint not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (tenant_id, id),
  constraint dead_letters_once unique (tenant_id, consumer, topic, partition, "offset"));
create index dead_letters_partition on dead_letters (consumer, topic, partition, "offset");
select pk.protect('dead_letters');

-- Park one event of the log; false when the partition is another's by now. Parking it again changes nothing.
create function park(letter uuid, consumer_name text, of_topic text, of_partition smallint, held bigint, at_offset bigint,
    why text, tries integer)
  returns boolean language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.holds(lease_of(consumer_name, of_topic, of_partition), held) then return false; end if;
  insert into dead_letters (tenant_id, id, consumer, topic, partition, "offset", event_id, source, type, subject, time,
      sequence, data, actor, traceparent, reason, attempts)
    select l.tenant_id, letter, consumer_name, l.topic, l.partition, l."offset", l.id, l.source, l.type, l.subject, l.time,
      l.sequence, l.data, l.actor, l.traceparent, why, tries
    from log l where l.topic = of_topic and l.partition = of_partition and l."offset" = at_offset
    on conflict on constraint dead_letters_once do nothing;
  return true;
end $$;

-- The entities that are parked for a consumer in these partitions.
create function parked(consumer_name text, topics text[], partitions smallint[])
  returns table (topic text, partition smallint, tenant_id uuid, source text, subject text)
  language sql stable security definer set search_path = eventbus, pg_catalog
  as $$
  select distinct d.topic, d.partition, d.tenant_id, d.source, d.subject
  from unnest(topics, partitions) as mine (topic, partition)
  join dead_letters d on d.consumer = consumer_name and d.topic = mine.topic and d.partition = mine.partition
  where pk.entered() $$;

-- Letters that are to be tried again, in the order of their entity.
create function replayable(consumer_name text, topics text[], partitions smallint[], most integer)
  returns setof dead_letters language sql stable security definer set search_path = eventbus, pg_catalog
  as $$
  select d.* from unnest(topics, partitions) as mine (topic, partition)
  join dead_letters d on d.consumer = consumer_name and d.topic = mine.topic and d.partition = mine.partition
  where pk.entered() and d.replay_at is not null order by d.topic, d.partition, d."offset" limit most $$;

-- One letter has had its effect; true when it was the last of its entity, which is parked no more.
create function deliver_letter(consumer_name text, of_tenant uuid, letter uuid, held bigint) returns boolean
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  gone dead_letters;
begin
  if not pk.entered() then return false; end if;
  delete from dead_letters d where d.tenant_id = of_tenant and d.id = letter and d.consumer = consumer_name
    and pk.holds(lease_of(d.consumer, d.topic, d.partition), held) returning * into gone;
  return found and not exists (select from dead_letters d where d.tenant_id = gone.tenant_id and d.consumer = gone.consumer
    and d.source = gone.source and d.subject = gone.subject);
end $$;

-- It failed again: it and what waits behind it stay until they are asked for once more.
create function keep_letter(consumer_name text, of_tenant uuid, letter uuid, why text, tries integer) returns void
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  update dead_letters d set reason = why, attempts = d.attempts + tries, version = version + 1, updated_at = now()
    where d.tenant_id = of_tenant and d.id = letter and d.consumer = consumer_name;
  update dead_letters d set replay_at = null from dead_letters failed
    where failed.tenant_id = of_tenant and failed.id = letter and d.tenant_id = of_tenant
      and d.consumer = failed.consumer and d.source = failed.source and d.subject = failed.subject;
end $$;

-- Ask for letters to be tried again: those of a consumer, of one entity of it, or the entity of one letter; how many. All
-- letters of an entity go together, since order is theirs.
create function ask_replay(consumer_name text, of_letter uuid) returns bigint
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  asked bigint;
begin
  if not pk.entered() then return 0; end if;
  update dead_letters d set replay_at = clock_timestamp()
    where (consumer_name is null or d.consumer = consumer_name)
      and (of_letter is null or (d.tenant_id, d.consumer, d.source, d.subject) in (
        select w.tenant_id, w.consumer, w.source, w.subject from dead_letters w where w.id = of_letter));
  get diagnostics asked = row_count;
  return asked;
end $$;

-- Letters of all tenants, for operators, the newest first.
create function list_letters(consumer_name text, before uuid, most integer) returns setof dead_letters
  language sql stable security definer set search_path = eventbus, pg_catalog
  as $$
  select * from dead_letters d where pk.entered() and (consumer_name is null or d.consumer = consumer_name)
    and (before is null or d.id < before) order by d.id desc limit most $$;

-- down
drop function list_letters(text, uuid, integer), ask_replay(text, uuid),
  keep_letter(text, uuid, uuid, text, integer), deliver_letter(text, uuid, uuid, bigint),
  replayable(text, text[], smallint[], integer), parked(text, text[], smallint[]),
  park(uuid, text, text, smallint, bigint, bigint, text, integer);
drop table dead_letters;
