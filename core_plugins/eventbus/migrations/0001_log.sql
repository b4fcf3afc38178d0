-- phase: expand
-- up
-- The event log. Events come out of the kernel's outbox and get, in one transaction, a position in the whole log, which is the
-- order of this table's commits, and an offset in one of the twelve partitions of their topic. Neither has gaps.

create table tip (only_one boolean primary key default true check (only_one), position bigint not null);
comment on table tip is 'no tenant: the position of the newest event of the whole log';
insert into tip (position) values (0);

create table heads (
  topic text collate "C" not null,
  partition smallint not null check (partition between 0 and 11),
  next_offset bigint not null default 0,
  primary key (topic, partition));
comment on table heads is 'no tenant: how far each partition of a topic has come';
insert into heads (topic, partition)
  select 'platform.' || domain || '.events', partition
  from unnest(array['auth', 'money', 'module', 'data', 'files', 'audit', 'billing']) as domain, generate_series(0, 11) as partition;

-- A bucket holds what one day (UTC) brought, of audit or of all other topics, so that what is too old goes at once.
create table log (
  bucket text collate "C" not null,
  position bigint not null,
  topic text collate "C" not null,
  partition smallint not null,
  "offset" bigint not null,
  appended_at timestamptz not null default clock_timestamp(),
  tenant_id uuid not null,
  id uuid not null,
  source text collate "C" not null,
  type text collate "C" not null,
  subject text collate "C" not null,
  time timestamptz not null,
  sequence bigint not null,
  data json not null,
  actor text not null,
  traceparent text not null,
  primary key (tenant_id, position, bucket)) partition by list (bucket);
create index log_offset on log (topic, partition, "offset");
create index log_position on log (position);
select pk.protect('log');

create function bucket_of(topic text, at timestamptz) returns text
  language sql immutable strict
  return case when topic = 'platform.audit.events' then 'audit' else 'other' end
    || to_char(at at time zone 'UTC', '_YYYYMMDD');

-- Make the tables of these buckets that are not there yet.
create function make_buckets(buckets text[]) returns void
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  wanted text;
begin
  foreach wanted in array buckets loop
    if to_regclass('eventbus.log_' || wanted) is null then
      execute format('create table log_%s (like log including defaults)', wanted);
      perform pk.protect(('eventbus.log_' || wanted)::regclass);
      -- Attaching lets readers and writers go on, as creating it as a partition would not.
      execute format('alter table log attach partition log_%s for values in (%L)', wanted, wanted);
    end if;
  end loop;
end $$;

-- Drop what is older than so many days; the names of what went.
create function drop_buckets(keep_other integer, keep_audit integer) returns setof text
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  found record;
begin
  if not pk.entered() then return; end if;
  for found in
    select c.relname, split_part(c.relname, '_', 2) as kind, to_date(split_part(c.relname, '_', 3), 'YYYYMMDD') as day
    from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = 'eventbus.log'::regclass
  loop
    if found.day < (clock_timestamp() at time zone 'UTC')::date
        - (case when found.kind = 'audit' then keep_audit else keep_other end) then
      execute format('drop table %I', found.relname);
      return next found.relname;
    end if;
  end loop;
end $$;

-- Move the oldest `most` events from the outbox into the log; how many, and -1 when the lease is another's by now. Whoever
-- comes second waits at the tip, and then holds no lease.
create function relay(held bigint, most integer) returns integer
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  moved integer;
  last bigint;
  now constant timestamptz := clock_timestamp();
  today constant text := bucket_of('', now);
  audit_today constant text := bucket_of('platform.audit.events', now);
begin
  select position into last from tip for update;
  if not pk.holds('eventbus:relay', held) then return -1; end if;
  perform make_buckets(array[today, audit_today]);
  with appended as (
    insert into log (bucket, position, topic, partition, "offset", appended_at, tenant_id, id, source, type, subject, time,
        sequence, data, actor, traceparent)
      select case when o.topic = 'platform.audit.events' then audit_today else today end, last + o.ordinality, o.topic,
        o.partition, h.next_offset + row_number() over (partition by o.topic, o.partition order by o.ordinality) - 1, now,
        o.tenant_id, o.id, o.source, o.type, o.subject, o.time, o.sequence, o.data, o.actor, o.traceparent
      from pk.take_outbox(most) with ordinality as o join heads h on h.topic = o.topic and h.partition = o.partition
      returning topic, partition),
  counted as (select topic, partition, count(*) as events from appended group by topic, partition),
  moved_on as (update heads h set next_offset = h.next_offset + c.events from counted c
    where h.topic = c.topic and h.partition = c.partition)
  select coalesce(sum(events), 0) into moved from counted;
  if moved > 0 then update tip set position = last + moved; end if;
  return moved;
end $$;

create function tip_position() returns bigint
  language sql stable security definer set search_path = eventbus, pg_catalog
  as $$ select position from tip where pk.entered() $$;

-- The position of the oldest event that is still here; the next one's, when there is none.
create function oldest_position() returns bigint
  language sql stable security definer set search_path = eventbus, pg_catalog
  as $$ select coalesce((select min(position) from log), (select position + 1 from tip)) from tip where pk.entered() $$;

-- What came after a position, of all tenants; for broadcasts.
create function read_after(after bigint, types text[], most integer) returns setof log
  language sql stable security definer set search_path = eventbus, pg_catalog
  as $$ select * from log where pk.entered() and position > after and type = any (types) order by position limit most $$;

-- How far each consumer has come: the offset that it reads next.
create table progress (
  consumer text collate "C" not null,
  topic text collate "C" not null,
  partition smallint not null,
  next_offset bigint not null,
  -- The event at which a worker ended, when one did, and how often.
  suspect_offset bigint not null default -1,
  suspect_times integer not null default 0,
  seen_at timestamptz not null default now(),
  primary key (consumer, topic, partition)) with (fillfactor = 50);
comment on table progress is 'no tenant: how far each consumer has come in each partition';

create function lease_of(consumer text, topic text, partition smallint) returns text
  language sql immutable strict
  return 'eventbus:' || consumer || '/' || topic || '/' || partition;

-- A consumer that comes for the first time begins with what comes after it.
create function join_group(consumer_name text, topics text[]) returns void
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  insert into progress (consumer, topic, partition, next_offset)
    select consumer_name, h.topic, h.partition, h.next_offset from heads h where h.topic = any (topics)
    on conflict (consumer, topic, partition) do update set seen_at = now();
end $$;

-- Who reads as a consumer; partitions are shared out evenly among them.
create table members (
  consumer text collate "C" not null,
  member text collate "C" not null,
  seen_at timestamptz not null,
  primary key (consumer, member));
comment on table members is 'no tenant: which processes read for a consumer';

-- Be there; how many are, within so many seconds.
create function attend(consumer_name text, member_name text, seconds double precision) returns bigint
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return 0; end if;
  insert into members (consumer, member, seen_at) values (consumer_name, member_name, clock_timestamp())
    on conflict (consumer, member) do update set seen_at = excluded.seen_at;
  delete from members where consumer = consumer_name and seen_at < clock_timestamp() - make_interval(secs => seconds);
  return (select count(*) from members where consumer = consumer_name);
end $$;

create function leave(consumer_name text, member_name text) returns void
  language sql volatile security definer set search_path = eventbus, pg_catalog
  as $$ delete from members where pk.entered() and consumer = consumer_name and member = member_name $$;

-- Before an event is handled after a worker had ended here: how often one did so at this very event.
create function suspect(consumer_name text, of_topic text, of_partition smallint, held bigint, at_offset bigint)
  returns integer language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  times integer;
begin
  if not pk.holds(lease_of(consumer_name, of_topic, of_partition), held) then return 0; end if;
  update progress set suspect_times = case when suspect_offset = at_offset then suspect_times + 1 else 1 end,
      suspect_offset = at_offset
    where consumer = consumer_name and topic = of_topic and partition = of_partition returning suspect_times into times;
  return times;
end $$;

-- The next events of these types in partitions of a consumer, `most` of each, with the partition's head. A partition that has
-- none of these types gives one row without an event; one that has nothing new at all gives none.
create function poll(consumer_name text, types text[], topics text[], partitions smallint[], most integer)
  returns table (of_topic text, of_partition smallint, head bigint, event log)
  language plpgsql stable security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.entered() then return; end if;
  return query select p.topic, p.partition, h.next_offset, l.event
    from unnest(topics, partitions) as mine (topic, partition)
    join progress p on p.consumer = consumer_name and p.topic = mine.topic and p.partition = mine.partition
    join heads h on h.topic = p.topic and h.partition = p.partition and h.next_offset > p.next_offset
    left join lateral (select w as event, w."offset" from log w where w.topic = p.topic and w.partition = p.partition
      and w."offset" >= p.next_offset and w.type = any (types) order by w."offset" limit most) as l on true
    order by p.topic, p.partition, l."offset";
end $$;

-- Note that everything before an offset is done; false when the partition is another's by now.
create function commit_progress(consumer_name text, of_topic text, of_partition smallint, held bigint, done bigint)
  returns boolean language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
begin
  if not pk.holds(lease_of(consumer_name, of_topic, of_partition), held) then return false; end if;
  update progress set next_offset = done, seen_at = now()
    where consumer = consumer_name and topic = of_topic and partition = of_partition and next_offset < done;
  return true;
end $$;

-- Let a consumer begin anew with what was appended since a moment. Whoever holds a partition loses it, so that what he is
-- about to note does not count; what has had its effect stands in the inbox and has none again.
create function rewind(consumer_name text, since timestamptz) returns bigint
  language plpgsql volatile security definer set search_path = eventbus, pg_catalog
  as $$
declare
  moved bigint;
begin
  if not pk.entered() then return 0; end if;
  perform pk.fence_leases(array(
    select lease_of(consumer, topic, partition) from progress where consumer = consumer_name order by 1));
  -- Never forwards: what it has not passed yet would be left out. `least` passes over null: nothing was appended since.
  update progress p set next_offset = least(p.next_offset,
      (select min(l."offset") from log l where l.topic = p.topic and l.partition = p.partition and l.appended_at >= since))
    where p.consumer = consumer_name;
  get diagnostics moved = row_count;
  return moved;
end $$;

-- How far consumers are behind, and since when.
create function lags() returns table (consumer text, topic text, behind bigint, oldest timestamptz)
  language sql stable security definer set search_path = eventbus, pg_catalog
  as $$
  select p.consumer, p.topic, sum(h.next_offset - p.next_offset)::bigint,
    -- The log is looked into only where something waits.
    min(case when h.next_offset > p.next_offset then (select l.appended_at from log l where l.topic = p.topic
      and l.partition = p.partition and l."offset" >= p.next_offset order by l."offset" limit 1) end)
  from progress p join heads h using (topic, partition) where pk.entered() group by p.consumer, p.topic order by 1, 2 $$;

-- down
drop function lags(), rewind(text, timestamptz), suspect(text, text, smallint, bigint, bigint), leave(text, text),
  attend(text, text, double precision), commit_progress(text, text, smallint, bigint, bigint),
  poll(text, text[], text[], smallint[], integer), join_group(text, text[]), lease_of(text, text, smallint),
  read_after(bigint, text[], integer), oldest_position(), tip_position(), relay(bigint, integer), drop_buckets(integer, integer),
  make_buckets(text[]), bucket_of(text, timestamptz);
drop table members, progress, log, heads, tip;
