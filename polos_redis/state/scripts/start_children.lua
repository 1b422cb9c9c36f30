#!lua flags=allow-oom
-- start_children: start some children of a step, a bounded number at a time. A child that exists is left as it is; one
-- that failed before its parent was retried runs again. One whose parent was created at another time is that of an
-- execution with the parent's id that is no longer kept: if it has ended, it is forgotten. None is started for a step
-- that was closed. Idempotent.
-- KEYS  1 the partition's prefix
-- ARGV  1 id  2 entry  3 owner  4 known changes  5 step key  6 'open' when they are waited for, else 'started'
--       7 children of the step  8 index of the first of these  9 retention in ms  10 the race it decides, or ''
--       11 the races it takes part in, as for join  12 number of the events' arguments
--       13.. those, then for each child: id, workflow, input (codec), options (msgpack map)
-- Returns {changes, record}; -1 or -2 as write_step does; {'older', its id} when such a child has not
-- ended, and nothing is changed.
-- #include fence
-- #include creation
-- #include rerun
-- #include deletion
local P, id, entry, owner, known, key, status, total, first, retention, decides, races, events =
  KEYS[1], unpack(ARGV, 1, 12)
local EVENTS <const> = 13
local PER_CHILD <const> = 4
total, first = tonumber(total), tonumber(first)
local children = EVENTS + tonumber(events) -- where they begin
local count, old, is = fence(P, id, entry, owner, known, key, 'relations', 'created', 'since')
if count < 0 then return count end
local _, parent_created, parent_since = unpack(is, FURTHER)
local record = old and cmsgpack.unpack(old)
if record and (record[KIND] ~= 'child' or record[STATUS] == 'closed' or record[CHILD_STARTED] > first
    or record[CHILD_STARTED] == total) then
  claim(P, id, owner, is, now)
  return {count, old}
end
local statuses, older, indexes = {}, {}, {}
for i = children, #ARGV, PER_CHILD do
  local child = ARGV[i]
  local its_status, workflow, index, relations = unpack(redis.call('HMGET', P .. 'exec:' .. child,
    'status', 'workflow', 'index', 'relations'))
  statuses[child] = its_status
  older[child] = its_status and read_relations(relations).parent_created ~= parent_created
  indexes[child] = index or workflow
  if older[child] and is_live(its_status) then
    return {'older', child}
  end
end
claim(P, id, owner, is, now)

-- open: the record of a new step.
local function open()
  if not join(P, id, races) and status == 'open' then status = 'closed' end
  if status == 'open' then note_wait(P, id, key) end
  local relations = read_relations((unpack(is, FURTHER)))
  if not relations.kids then
    relations.kids = true
    write_relations(P, id, relations)
  end
  local left, started, decided = total, 0, 0
  return {1, 'child', status, now, total, left, started, decided, decides}
end

-- start: start a child, or take in the result that it has already.
local function start(child, created, workflow, input, options)
  local result = result_field(child)
  local held = redis.call('HGET', P .. 'journal:' .. id, result)
  if held then -- a result that came since this step began has been counted
    if read_record(held)[RESULT_OPENED] ~= record[OPENED] then record[CHILD_LEFT] = record[CHILD_LEFT] - 1 end
    return
  end
  local is = statuses[child]
  if older[child] then
    forget(P, child, indexes[child])
    is = nil
  end
  if is == 'completed' then
    if record[STATUS] == 'open' then
      local output = redis.call('HGET', P .. 'exec:' .. child, 'output')
      redis.call('HSET', P .. 'journal:' .. id, result, cmsgpack.pack({1, 'completed', output, key, record[OPENED]}))
    end
    record[CHILD_LEFT] = record[CHILD_LEFT] - 1
    return
  end
  redis.call('SADD', P .. 'children:' .. id, child)
  if is == 'failed' or is == 'cancelled' then
    rerun(P, child, redis.call('HMGET', P .. 'exec:' .. child, unpack(ENDING_FIELDS)), 0)
  elseif not is then
    redis.call('SADD', P .. 'descendants:' .. root_of(id), child)
    options = cmsgpack.unpack(options)
    options.parent_created, options.parent_since = parent_created, parent_since or nil
    create(P, child, workflow, input, retention, created, options)
  end
end

if children > EVENTS then
  tell(P, id, is, {unpack(ARGV, EVENTS, children - 1)})
elseif not is_told(id, is) then
  open_stream(P, id) -- for the children's events
end
record = record or open()
if record[STATUS] ~= 'closed' then
  for i = children, #ARGV, PER_CHILD do
    start(ARGV[i], now_us + (i - children) / PER_CHILD, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  end
  record[CHILD_STARTED] = first + (#ARGV - children + 1) / PER_CHILD
end
local packed
if record[STATUS] == 'open' and record[CHILD_LEFT] == 0 then
  packed = resolve(P, id, key, record, 'done')
else
  packed = rewrite(P, id, key, record)
end
return {changes(P, id), packed}
