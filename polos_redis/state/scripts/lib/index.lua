-- An execution has a row in the index of its status and workflow. A partition has such indexes for this many workflow
-- ids. The executions of further ids share the index without a name, so callers can't make a listing take longer.
local MOST_WORKFLOWS <const> = 1000

local function index_of(P, status, workflow)
  return P .. 'index:' .. status .. ':' .. workflow
end

-- add_to_index: note a new execution, which is queued.
local function add_to_index(P, id, workflow, created)
  local workflows = P .. 'workflows'
  if redis.call('SADD', workflows, workflow) == 1 and redis.call('SCARD', workflows) > MOST_WORKFLOWS then
    redis.call('SREM', workflows, workflow)
    workflow = ''
  end
  redis.call('ZADD', index_of(P, 'queued', workflow), created, id)
end

-- reindex: move an execution in the index with its status. It is in two indexes for a moment, never in none: repair
-- finds it by its row.
local function reindex(P, id, workflow, created, from, to)
  redis.call('ZADD', index_of(P, to, workflow), created, id)
  if redis.call('ZREM', index_of(P, from, workflow), id) == 0 and
      redis.call('ZREM', index_of(P, from, ''), id) == 1 then
    redis.call('ZREM', index_of(P, to, workflow), id)
    redis.call('ZADD', index_of(P, to, ''), created, id)
  end
end

-- drop_from_index: forget an execution, and a workflow id that has no more of them.
local function drop_from_index(P, id, workflow, status)
  if redis.call('ZREM', index_of(P, status, workflow), id) == 0 then
    redis.call('ZREM', index_of(P, status, ''), id)
  end
  if redis.call('EXISTS', index_of(P, 'queued', workflow), index_of(P, 'waiting', workflow),
    index_of(P, 'stuck', workflow), index_of(P, 'completed', workflow), index_of(P, 'failed', workflow),
    index_of(P, 'cancelled', workflow)) == 0 then
    redis.call('SREM', P .. 'workflows', workflow)
  end
end

-- drop_from_all: forget executions whose workflows are not known any more, in the indexes of those that have ended.
local function drop_from_all(P, ids)
  local workflows = redis.call('SMEMBERS', P .. 'workflows')
  workflows[#workflows + 1] = ''
  for _, workflow in ipairs(workflows) do
    for _, status in ipairs({'completed', 'failed', 'cancelled'}) do
      redis.call('ZREM', index_of(P, status, workflow), unpack(ids))
    end
  end
end
