-- #include clock
-- #include wake
-- #include resolve
-- A child's result goes into its parent's journal, as the field '\255<the child's hash>': status,
-- value, the step key that waits for it, and when that began to.
local function result_field(id)
  return '\255' .. string.match(id, '[^.]*$')
end

-- let_go: a child that has ended need not be ended with its parent any more, once its own children have ended too.
-- (An ancestor that is being ended may have taken over `one`, see cancel_children.)
local function let_go(P, one, relations)
  local id = one
  while relations.parent and redis.call('EXISTS', P .. 'children:' .. id) == 0 do
    redis.call('SREM', P .. 'children:' .. relations.parent, id, one)
    id = relations.parent
    local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'relations')
    if e[1] == 'queued' or e[1] == 'waiting' then return end
    relations = read_relations(e[2])
  end
end

-- take_back: a child that begins again is to be ended with its parent, and where that has ended, with those above it.
local function take_back(P, id, relations)
  while relations.parent do
    redis.call('SADD', P .. 'children:' .. relations.parent, id)
    id = relations.parent
    local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'relations')
    if e[1] == 'queued' or e[1] == 'waiting' then return end
    relations = read_relations(e[2])
  end
end

-- notify_parent: a child has ended. Its parent is woken when it was the last that a step waits for; one that has failed
-- keeps the result for its next run.
local function notify_parent(P, id, relations, status, value)
  local parent, key = relations.parent, relations.key
  let_go(P, id, relations)
  local is = redis.call('HGET', P .. 'exec:' .. parent, 'status')
  if is ~= 'queued' and is ~= 'waiting' and is ~= 'failed' then return end
  local journal = P .. 'journal:' .. parent
  local packed = redis.call('HGET', journal, key)
  local record = packed and read_record(packed) or {}
  if record[2] ~= 'child' or record[STATUS] == 'started' then return end
  local result = cmsgpack.pack({status, value, key, record[OPENED]})
  if redis.call('HSETNX', journal, result_field(id), result) == 0 then return end
  record[6] = record[6] - 1
  if record[6] > 0 or record[STATUS] ~= 'open' then
    rewrite(P, parent, key, record)
  else
    wake(P, parent, key, resolve(P, parent, key, record, 'done', now))
  end
end

-- ending: an execution ends, whatever ended it. `e` is HMGET of ENDING_FIELDS; `fields` are written with its
-- status. Closes open waits, takes its entry off the queue, gives every key a TTL, writes the finish event
-- last, after `events`, and tells who registered for the result, which is `value`, kept as `field`.
-- `changes` 0 says that it has no journal.
local ENDING_FIELDS = {'status', 'entry', 'owner', 'started', 'workflow', 'queue', 'created', 'retention', 'waits',
  'notify', 'early', 'relations'}

local function ending(P, id, e, status, field, value, event, events, fields, changes)
  local exec, journal = P .. 'exec:' .. id, P .. 'journal:' .. id
  local retention = tonumber(e[8])
  if e[9] then
    for _, key in ipairs(cmsgpack.unpack(e[9])) do
      close(P, id, key, now, 'retry')
      redis.call('PEXPIRE', P .. 'topic:' .. key .. '/' .. id, retention)
    end
  end
  if e[2] then
    take_off(P, e[6], e[2])
  elseif e[1] == 'queued' then
    redis.call('ZREM', P .. 'timers', 'p' .. id)
  end
  reindex(P, id, e[5], e[7], e[1], status)
  redis.call('HSET', exec, 'status', status, 'finished', now, field, value, unpack(fields))
  redis.call('HDEL', exec, 'entry', 'owner', 'notify', 'attempts', 'progress', 'early')

  local root = string.match(id, '^[^.]*')
  local topic = P .. 'topic:' .. root
  events[#events + 1] = root == id and 'workflow_finish' or 'workflow_finish\0' .. id
  events[#events + 1] = event
  redis.call('XADD', topic, '*', unpack(events))
  local root_status = root ~= id and redis.call('HGET', P .. 'exec:' .. root, 'status')
  if root_status ~= 'queued' and root_status ~= 'waiting' then
    redis.call('PEXPIRE', topic, retention)
    if e[12] then redis.call('PEXPIRE', P .. 'below:' .. root, retention) end
  end
  if changes ~= 0 then redis.call('PEXPIRE', journal, retention) end
  if e[11] then redis.call('UNLINK', P .. 'early:' .. id) end
  redis.call('PEXPIRE', exec, retention + 60000)
  redis.call('ZADD', P .. 'expiry', now + retention, id)

  if e[10] then
    local inline = #value <= 16384 and value or false
    local notice = cmsgpack.pack({'done', id, status, field, inline})
    for who in string.gmatch(e[10], '%S+') do redis.pcall('SPUBLISH', P .. 'reply:' .. who, notice) end
  end
  if e[12] then
    local relations = read_relations(e[12])
    if relations.deadline then redis.call('ZREM', P .. 'timers', 't' .. id) end
    if e[1] == 'queued' then leave(P, id, relations) end
    if relations.parent then notify_parent(P, id, relations, status, value) end
  end
end
