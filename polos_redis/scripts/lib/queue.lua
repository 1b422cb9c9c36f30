-- queue_key: the stream an execution's entries go to.
local function queue_key(P, queue)
  return P .. 'queue:' .. (queue or 'default')
end

-- take_off: acknowledge and delete an execution's entry; an empty entry is none.
local function take_off(P, queue, entry)
  if entry and entry ~= '' then
    local key = queue_key(P, queue)
    redis.pcall('XACK', key, 'workers', entry)
    redis.call('XDEL', key, entry)
  end
end

-- put_on: a new entry for an execution that is runnable; it becomes the live one.
local function put_on(P, id)
  local exec = P .. 'exec:' .. id
  local e = redis.call('HMGET', exec, 'workflow', 'run', 'queue')
  local entry = redis.call('XADD', queue_key(P, e[3]), '*', 'id', id, 'workflow', e[1], 'run', e[2])
  redis.call('HSET', exec, 'entry', entry)
end

-- move: an execution changes its status, and its place in the index with it.
local function move(P, id, workflow, created, from, to)
  redis.call('ZREM', P .. 'index:' .. from .. ':' .. workflow, id)
  redis.call('ZADD', P .. 'index:' .. to .. ':' .. workflow, created, id)
  redis.call('HSET', P .. 'exec:' .. id, 'status', to)
end
