#!lua flags=no-writes
-- read_statuses: what executions are doing now, and what they wait for.
-- KEYS  1 the partition's prefix
-- ARGV  1 how many waits of each to return at most  2.. ids
-- Returns a list of {status, workflow, created us, started ms, finished ms, the worker that runs it, since when it is
-- queued ms, when a delayed one is put on its queue ms, how many wait for a slot before it, why it is stuck,
-- who has cancelled it, {step key, attempt, since ms, progress (codec), ms, when that attempt timed out ms, while its
-- thread is waited for} of each step that runs, how many waits are open, {kind, step key, since ms, until ms or 0,
-- topic, children} of some of these}. What is unknown is ''; of an execution that does not exist there is an empty
-- list.
-- #include status
-- #include execution
-- #include relations
-- #include waits
-- #include heartbeats
local P, most = KEYS[1], unpack(ARGV, 1, 1)
local IDS <const> = 2
local MOST_LOOKED_AT <const> = 1000 -- step keys of one execution
local LARGEST_WAIT <const> = 8192 -- bytes of a record: that of an open wait for a time, an event or children is smaller
local LARGEST_FAILURE <const> = 524288 -- likewise: that of a failed attempt is smaller
most = tonumber(most)

-- running_steps: the steps that are noted as running and have not journaled that attempt, each with what that attempt
-- has reported last.
local function running_steps(id, running, heartbeats)
  local found, reported = {}, {}
  for _, one in ipairs(read_heartbeats(heartbeats)) do reported[one[HEARTBEAT_STEP]] = one end
  for _, one in ipairs(running and cmsgpack.unpack(running) or {}) do
    local version, key, attempt, since, timed_out = unpack(one)
    local size = redis.call('HSTRLEN', P .. 'journal:' .. id, key)
    local done = size > LARGEST_FAILURE or (size > 0 and (record_of(P, id, key)[ATTEMPT] or 0) >= attempt)
    if version == 1 and not done then
      local value, at = '', ''
      local report = reported[key]
      if report and report[HEARTBEAT_AT] >= math.floor(since) then
        value, at = report[HEARTBEAT_VALUE], string.format('%.0f', report[HEARTBEAT_AT])
      end
      timed_out = timed_out and string.format('%.0f', timed_out) or ''
      found[#found + 1] = {key, attempt, string.format('%.0f', since), value, at, timed_out}
    end
  end
  return found
end

-- wait_at: the open wait under a step key; nil when there is none.
local function wait_at(id, key)
  local member = id .. ' ' .. key
  local opened = redis.call('ZSCORE', P .. 'suspensions', member)
  if opened then
    local till = redis.call('ZSCORE', P .. 'timers', 's' .. member)
    return {'person', key, string.format('%.0f', math.floor(opened / 1000)), till or 0, '', ''}
  end
  local retry = redis.call('ZSCORE', P .. 'timers', 'b' .. member)
  if retry then return {'retry', key, '', retry, '', ''} end
  if redis.call('HSTRLEN', P .. 'journal:' .. id, key) > LARGEST_WAIT then return nil end
  local record = record_of(P, id, key)
  if record[STATUS] ~= 'open' then return nil end
  local since = string.format('%.0f', record[OPENED])
  if record[KIND] == 'child' then return {'child', key, since, 0, '', record[CHILD_LEFT]} end
  if record[KIND] ~= 'wait' then return nil end
  local topic = record[WAIT_TOPIC]
  return {topic == '' and 'time' or 'event', key, since, string.format('%.0f', record[DEADLINE]), topic, ''}
end

-- open_waits: how many waits of an execution are open, and the newest of them.
local function open_waits(id, packed)
  local keys, count, found = read_waits(packed), 0, {}
  for i = #keys, math.max(1, #keys - MOST_LOOKED_AT + 1), -1 do
    local wait = wait_at(id, keys[i])
    if wait then
      count = count + 1
      if count <= most then found[count] = wait end
    end
  end
  return count, found
end

-- place_of: since when an execution is queued, when it is put on its queue, and how many wait for a slot before it.
local function place_of(id, entry, relations)
  if entry then return (string.match(entry, '^%d+')) end
  local starts = redis.call('ZSCORE', P .. 'timers', 'p' .. id)
  if starts then return nil, starts end
  local semaphore = read_relations(relations).semaphore
  local waiters = semaphore and P .. 'waiters:' .. semaphore
  local since = waiters and redis.call('ZSCORE', waiters, id)
  if since then return string.format('%.0f', math.floor(since / 1000)), nil, redis.call('ZRANK', waiters, id) end
end

local result = {}
for i = IDS, #ARGV do
  local id, row = ARGV[i], {}
  local exec = P .. 'exec:' .. id
  local status, workflow, created, started, finished, by = unpack(redis.call('HMGET', exec,
    'status', 'workflow', 'created', 'started', 'finished', 'cancelled_by'))
  if status then
    local queue, entry, owner, running, heartbeats, reason, waits, relations = unpack(redis.call('HMGET', exec,
      'queue', 'entry', 'owner', 'running', 'heartbeats', 'stuck', 'waits', 'relations'))
    local worker = status == 'queued' and worker_of(P, queue, entry, owner)
    local since, starts, ahead
    if status == 'queued' then since, starts, ahead = place_of(id, entry, relations) end
    local count, open = 0, {}
    if is_live(status) then count, open = open_waits(id, waits) end
    row = {word_for(P, status, queue, entry, owner, reason), workflow, created or '', started or '', finished or '',
      worker or '', since or '', starts or '', ahead or '', status == 'stuck' and reason or '', by or '',
      worker and running_steps(id, running, heartbeats) or {}, count, open}
  end
  result[#result + 1] = row
end
return result
