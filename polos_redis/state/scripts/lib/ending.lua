-- #include clock
-- #include execution
-- #include ended
-- #include extend
-- #include append
-- #include semaphore
-- #include wake
-- #include early
-- #include stream
-- #include versions
-- result_field: the field of the parent's journal that holds a child's result: {version, status, value, the step key
-- that waits for it, and when that began to wait}.
local function result_field(id)
  return '\255' .. string.match(id, '[^.]*$') -- the child's hash
end

-- relations_of_ended: the relations of an execution that has ended; nil while it is live.
local function relations_of_ended(P, id)
  local status, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'relations'))
  if not is_live(status) then return read_relations(relations) end
end

-- let_go: a child that has ended need not be ended with its parent any more, once its own children have ended too. An
-- ancestor that is being ended may have taken over `one`, see cancel_children.
local function let_go(P, one, relations)
  local id = one
  while relations and relations.parent and redis.call('EXISTS', P .. 'children:' .. id) == 0 do
    redis.call('SREM', P .. 'children:' .. relations.parent, id, one)
    id = relations.parent
    relations = relations_of_ended(P, id)
  end
end

-- notify_parent: a child has ended. Its parent is woken when a step waited for this child last; one that has failed
-- keeps the result for its next run. One that has continued as new does not know the step any more.
local function notify_parent(P, id, relations, status, value)
  local parent, key = relations.parent, relations.key
  let_go(P, id, relations)
  local is, since = unpack(redis.call('HMGET', P .. 'exec:' .. parent, 'status', 'since'))
  if not is_live(is) and is ~= 'failed' then return end
  if since and since ~= relations.parent_since then return end
  local record = record_of(P, parent, key)
  if record[KIND] ~= 'child' or record[STATUS] == 'started' then return end
  local result = cmsgpack.pack({1, status, value, key, record[OPENED]})
  if redis.call('HSETNX', P .. 'journal:' .. parent, result_field(id), result) == 0 then return end
  record[CHILD_LEFT] = record[CHILD_LEFT] - 1
  if record[CHILD_LEFT] > 0 or record[STATUS] ~= 'open' then
    rewrite(P, parent, key, record)
  else
    wake(P, parent, key, record, 'done')
  end
end

-- ending: end an execution, whatever the cause. `e` is HMGET of ENDING_FIELDS; `fields` are written with its status;
-- `value` is the result, kept as `field`. Closes open waits, takes the entry off the queue, gives every key a TTL,
-- emits the finish event (of `event`, when it has not completed) after `events`, if there is a stream, and notifies
-- whoever registered for the result. `count` is the journal's count of changes, where it is known: 0 says that there is
-- no journal. The status comes first, and last goes what repair finds an execution by that has ended by half: its
-- entry, or its row in the index of those that have not ended. Fields that mean nothing after the end stay until the
-- next run.
local function ending(P, id, e, status, field, value, event, events, fields, count)
  local exec, retention, root = P .. 'exec:' .. id, tonumber(e[EXEC_RETENTION]), root_of(id)
  local before, name = e[EXEC_STATUS], e[EXEC_INDEX] or e[EXEC_WORKFLOW]
  local told = is_told(id, e) or status ~= 'completed'
  if told and not is_told(id, e) then open_stream(P, id, e[EXEC_STARTED], true) end
  if not told and count ~= 0 then redis.call('HDEL', P .. 'journal:' .. id, WRITER) end
  redis.call('HSET', exec, 'status', status, 'finished', now, field, value, unpack(fields))
  if e[EXEC_WAITS] then
    for _, key in ipairs(read_waits(e[EXEC_WAITS])) do
      close(P, id, key, 'retry')
      redis.call('PEXPIRE', P .. 'topic:' .. key .. '/' .. id, retention)
    end
  end

  if told then
    if status == 'completed' then event = completed(P, id, value) end
    append(events, event_of(id, root, 'workflow_finish'), event)
    redis.call('XADD', P .. 'topic:' .. root, '*', unpack(events))
  end
  if root == id or not is_live(redis.call('HGET', P .. 'exec:' .. root, 'status')) then
    if told then extend(P .. 'topic:' .. root, retention) end
    if e[EXEC_RELATIONS] then
      extend(P .. 'below:' .. root, retention)
      if root ~= id then redis.call('SADD', P .. 'descendants:' .. root, id) end -- the set may have expired
      extend(P .. 'descendants:' .. root, retention + 60000) -- as `keep`: not before they are forgotten
    end
  end
  if count ~= 0 then redis.call('PEXPIRE', P .. 'journal:' .. id, retention) end
  if e[EXEC_EARLY] then
    local early = redis.call('HGETALL', P .. 'early:' .. id)
    for i = 1, #early, 2 do
      local key = early[i]
      note_unused(P, id, key, early[i + 1])
      local errand = 'y' .. id .. ' ' .. key
      redis.call('ZREM', P .. 'errands', errand)
      redis.call('HDEL', P .. 'errand_failures', errand)
    end
    redis.call('UNLINK', P .. 'early:' .. id)
  end
  keep(P, id, name, retention)
  if status ~= 'completed' then list(P, status, name, e[EXEC_CREATED], id) end

  if e[EXEC_VERSION] then unlist_version(P, id, e[EXEC_WORKFLOW], e[EXEC_VERSION]) end
  if e[EXEC_NOTIFY] then notify_of_end(P, id, e[EXEC_NOTIFY], status, field, value) end
  if e[EXEC_RELATIONS] then
    local relations = read_relations(e[EXEC_RELATIONS])
    if relations.deadline then redis.call('ZREM', P .. 'timers', 't' .. id) end
    if before == 'queued' then leave(P, id, relations) end
    if relations.parent then notify_parent(P, id, relations, status, value) end
  end
  if before == 'queued' and not e[EXEC_ENTRY] then
    redis.call('ZREM', P .. 'timers', 'p' .. id)
    if e[EXEC_QUEUE] then unlist(P, 'unserved', e[EXEC_QUEUE], id) end
  end
  if before ~= 'queued' or not e[EXEC_ENTRY] then unlist(P, before, name, id) end
  if e[EXEC_ENTRY] then take_off(P, e[EXEC_QUEUE], e[EXEC_ENTRY]) end
end
