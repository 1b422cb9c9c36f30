-- A partition lists its executions by workflow id, in `index:<what>:<name>`:
--   all        every execution, by creation (us)
--   ended      those that have ended, by the end of their retention (ms)
--   queued     those that are queued without an entry: they start later, or wait for a slot; by creation, likewise
--   waiting, stuck, failed, cancelled
-- The name is the workflow's id. There are such indexes for this many ids: executions of further ids share those of the
-- empty name, which their field `index` says, so callers can't make a listing take longer. `workflows` has the names,
-- by the time (ms) at which ended executions are looked for whose retention is over.
local MOST_WORKFLOWS <const> = 1000

local function index_of(P, what, name)
  return P .. 'index:' .. what .. ':' .. name
end

local function list(P, what, name, created, id)
  redis.call('ZADD', index_of(P, what, name), created, id)
end

local function unlist(P, what, name, id)
  redis.call('ZREM', index_of(P, what, name), id)
end

-- name_for: the name of the indexes for a new execution, nil when there is one with this id; and whether it has a
-- stream already, of somebody who follows it. The same command tells whether workflow and queue are known: their keys
-- count twice and four times, the stream's eight times. A new queue gets its stream and group.
local function name_for(P, id, workflow, queue)
  local all, stream, topic = index_of(P, 'all', workflow), P .. 'queue:' .. (queue or 'default'), P .. 'topic:' .. id
  local found = redis.call('EXISTS', P .. 'exec:' .. id, all, all, stream, stream, stream, stream, topic, topic, topic,
    topic, topic, topic, topic, topic)
  local told = found >= 8
  if found % 2 == 1 then return end
  if told then redis.call('PERSIST', topic) end
  if found % 8 < 4 then
    redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
    redis.call('SADD', P .. 'queues', queue or 'default')
  end
  if found % 4 >= 2 then return workflow, told end
  local workflows = P .. 'workflows'
  if redis.call('ZADD', workflows, 'NX', 0, workflow) == 1 and redis.call('ZCARD', workflows) > MOST_WORKFLOWS then
    redis.call('ZREM', workflows, workflow)
    redis.call('ZADD', workflows, 'NX', 0, '')
    return '', told
  end
  return workflow, told
end

-- drop_name: forget a name that has no executions any more.
local function drop_name(P, name)
  if redis.call('EXISTS', index_of(P, 'all', name)) == 0 then redis.call('ZREM', P .. 'workflows', name) end
end

-- unlist_uncreated: remove the rows of an execution whose creation was cut off: it has an entry and does not exist.
local function unlist_uncreated(P, id, workflow)
  for _, name in ipairs({workflow, ''}) do
    unlist(P, 'all', name, id)
    drop_name(P, name)
  end
end
