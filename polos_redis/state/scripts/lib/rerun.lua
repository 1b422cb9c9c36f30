-- #include ending
-- #include status
-- is_result: whether a field of a journal is a child's result, not a step key.
local function is_result(field)
  return string.byte(field) == 255
end

-- decided_at: when a record other than a step's was decided, ms; 0 while it is open.
local function decided_at(record)
  local position = {suspend = DECIDED, wait = WAIT_DECIDED, child = CHILD_DECIDED, race = RACE_DECIDED}
  return record[position[record[KIND]]]
end

-- failed_results: the fields of the results to drop, and of the step keys that wait for them. A child that was
-- forgotten would start over and repeat what it has done: its result stands.
local function failed_results(P, id, flat)
  local dropped = {}
  for i = 1, #flat, 2 do
    local field = flat[i]
    if is_result(field) then
      local result = read_record(flat[i + 1])
      local child = root_of(id) .. '.' .. string.sub(field, 2)
      if result[RESULT_STATUS] ~= 'completed' and redis.call('EXISTS', P .. 'exec:' .. child) == 1 then
        dropped[field] = true
        -- the step runs again: the results that stay count at once
        if result[RESULT_STEP] then dropped[result[RESULT_STEP]] = true end
      end
    end
  end
  return dropped
end

-- prune_race: remove the dropped steps from a race's members; a race whose winner's steps are among them is dropped.
local function prune_race(P, id, key, race, dropped)
  local all, left = race[RACE_MEMBERS], {}
  for i = 1, #all, 2 do
    if not dropped[all[i]] then
      append(left, all[i], all[i + 1])
    elseif race[STATUS] == 'won' and race[RACE_WINNER] == all[i + 1] then
      dropped[key] = true
    end
  end
  if race[STATUS] == 'open' and #left < #all then
    race[RACE_MEMBERS] = left
    redis.call('HSET', P .. 'journal:' .. id, key, cmsgpack.pack(race))
  end
end

-- ended_at: when code has learnt how what is recorded here ended, ms.
local function ended_at(record)
  local at = record[KIND] == 'step' and math.floor(record[#record]) or decided_at(record)
  return at > 0 and at or math.huge
end

-- mark_optional: code that is to find another outcome than before, where something is dropped, may come to other
-- questions than before: it need not reach the answers to those it asked later. What is dropped of a race that stays
-- has lost it, and is not run again.
local function mark_optional(P, id, records, dropped)
  local lost, earliest = {}, math.huge
  for key, record in pairs(records) do
    if record[KIND] == 'race' and not dropped[key] then
      local members = record[RACE_MEMBERS]
      for i = 1, #members, 2 do lost[members[i]] = true end
    end
  end
  for key in pairs(dropped) do
    local record = records[key]
    if record and record[KIND] and not lost[key] then earliest = math.min(earliest, ended_at(record)) end
  end
  for key, record in pairs(records) do
    if may_mark(record) and record[OPENED] >= earliest then mark(P, id, key, record, 'optional') end
  end
end

-- prune: drop from the journal what failed, timed out or was closed. The rest stays.
local function prune(P, id)
  local journal = P .. 'journal:' .. id
  local flat = redis.call('HGETALL', journal)
  local dropped, newest, records = failed_results(P, id, flat), 0, {}
  for i = 1, #flat, 2 do
    local key = flat[i]
    local record = key ~= '' and not is_result(key) and read_record(flat[i + 1]) or {}
    local kind, status = record[KIND], record[STATUS]
    records[key] = record
    if kind == 'step' then
      if status == 'failed' then dropped[key] = true end
      if status ~= 'abandoned' then newest = math.max(newest, record[#record] or 0) end
    elseif status == 'closed' or (status == 'expired' and not (kind == 'suspend' and record[ANSWER] ~= '')) then
      dropped[key] = true -- but not what the default for a timeout has decided
    elseif kind then
      newest = math.max(newest, record[OPENED], decided_at(record))
    end
  end
  for i = 1, #flat, 2 do
    local key = flat[i]
    local record = records[key]
    if record[KIND] == 'step' and record[STATUS] == 'abandoned' and record[#record] >= newest then
      dropped[key] = true -- nothing has followed that relies on it
    elseif record[KIND] == 'race' then
      prune_race(P, id, key, record, dropped)
    end
  end
  mark_optional(P, id, records, dropped)
  local gone = {}
  for key in pairs(dropped) do gone[#gone + 1] = key end
  for i = 1, #gone, 1000 do redis.call('HDEL', journal, unpack(gone, i, math.min(#gone, i + 999))) end
  if #flat > 0 then redis.call('HINCRBY', journal, '', 1) end
end

-- revive: undo the end of an execution: nothing of it expires, and its children are not ended any more.
local function revive(P, id, e, name)
  local exec = P .. 'exec:' .. id
  unlist(P, 'ended', name, id)
  unlist(P, e[EXEC_STATUS], name, id)
  redis.call('ZREM', P .. 'timers', 'c' .. id) -- the children that its end has not reached go on
  if e[EXEC_VERSION] then list_version(P, id, e[EXEC_WORKFLOW], e[EXEC_VERSION], e[EXEC_CREATED]) end
  redis.call('HDEL', exec, 'notify', 'early', 'stuck', 'retried') -- its own retries are counted from zero
  redis.call('PERSIST', exec)
  redis.call('PERSIST', P .. 'journal:' .. id)
  redis.call('PERSIST', P .. 'topic:' .. id) -- a child has no topic of its own, and none below
  redis.call('PERSIST', P .. 'below:' .. id)
  redis.call('PERSIST', P .. 'descendants:' .. id)
  for _, key in ipairs(read_waits(e[EXEC_WAITS])) do
    redis.call('PERSIST', P .. 'topic:' .. key .. '/' .. id)
  end
end

-- take_back: a child that runs again is to be ended with its parent, and where that has ended, with those above it.
local function take_back(P, id, relations)
  while relations and relations.parent do
    redis.call('SADD', P .. 'children:' .. relations.parent, id)
    id = relations.parent
    relations = relations_of_ended(P, id)
  end
end

local function emit_retry(P, id, run, delay)
  local root, event = root_of(id), '\130' .. cmsgpack.pack('run', run, 'delay_ms', delay) -- a map of two
  redis.call('XADD', P .. 'topic:' .. root, '*', event_of(id, root, 'workflow_retry'), event)
end

-- rerun: continue a failed execution from its journal as a new run, after `delay` ms. `e` is HMGET of ENDING_FIELDS; it
-- has ended, or is about to. Returns the number of the new run.
local function rerun(P, id, e, delay)
  local exec, relations, ended = P .. 'exec:' .. id, read_relations(e[EXEC_RELATIONS]), e[EXEC_STATUS] ~= 'queued'
  local name = e[EXEC_INDEX] or e[EXEC_WORKFLOW]
  list(P, 'queued', name, e[EXEC_CREATED], id) -- first: repair finds it there
  if not is_told(id, e) then open_stream(P, id, e[EXEC_STARTED]) end -- what is dropped has been told then
  prune(P, id)
  if ended then revive(P, id, e, name) end
  local error = redis.call('HGET', exec, 'error')
  if error then redis.call('HSET', exec, 'last_error', error) end
  redis.call('HDEL', exec, 'entry', 'owner', 'attempts', 'progress', 'held_back', 'answers', 'output', 'error',
    'cancelled_by', 'finished', 'unreached', 'unreached_waits', 'running', 'heartbeats')
  redis.call('HSET', exec, 'status', 'queued')
  local run = redis.call('HINCRBY', exec, 'run', 1)
  if not ended then
    if e[EXEC_ENTRY] then take_off(P, e[EXEC_QUEUE], e[EXEC_ENTRY]) end
    leave(P, id, relations)
  end
  if ended and relations.timeout then
    relations.deadline = now + delay + relations.timeout
    redis.call('ZADD', P .. 'timers', relations.deadline, 't' .. id)
    write_relations(P, id, relations)
  end
  if ended then take_back(P, id, relations) end

  emit_retry(P, id, run, delay)
  if delay > 0 then
    redis.call('ZADD', P .. 'timers', now + delay, 'p' .. id)
  else
    offer_listed(P, id, name, e[EXEC_CREATED], e[EXEC_WORKFLOW], run, e[EXEC_QUEUE], relations)
  end
  return run
end

-- unstick: continue a stuck execution as a new run, with all of its journal, or a paused one without what has failed.
-- Its deadline stays, and so do its open waits. Returns the number of the run.
local function unstick(P, id, e)
  local exec, name = P .. 'exec:' .. id, e[EXEC_INDEX] or e[EXEC_WORKFLOW]
  if is_paused(redis.call('HGET', exec, 'stuck')) then
    prune(P, id)
    redis.call('HDEL', exec, 'retried') -- its own retries are counted from zero
  end
  redis.call('HDEL', exec, 'stuck')
  local run = redis.call('HINCRBY', exec, 'run', 1)
  emit_retry(P, id, run, 0)
  offer(P, id, name, e[EXEC_CREATED], e[EXEC_WORKFLOW], run, e[EXEC_QUEUE], read_relations(e[EXEC_RELATIONS]))
  unlist(P, 'stuck', name, id)
  return run
end
