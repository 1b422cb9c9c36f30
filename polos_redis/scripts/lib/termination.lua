-- #include ending
-- finish_event: data of a finish event: status, what (cancelled_by or error), and the run.
local function finish_event(P, id, status, what, text)
  return '\131' .. cmsgpack.pack('status') .. cmsgpack.pack(status) .. cmsgpack.pack(what)
    .. (text == '' and '\192' or cmsgpack.pack(text))
    .. cmsgpack.pack('run') .. cmsgpack.pack(tonumber(redis.call('HGET', P .. 'exec:' .. id, 'run')))
end

-- terminate: end an execution from outside: its living activation is told, its descendants follow by a timer.
local function terminate(P, id, e, status, field, value, event)
  ending(P, id, e, status, field, value, event, {}, {})
  if e[3] then
    redis.pcall('SPUBLISH', P .. 'reply:' .. string.match(e[3], '^[^:]*'), cmsgpack.pack({'cancelled', id}))
  end
  if read_ties(e[12]).kids then redis.call('ZADD', P .. 'timers', now, 'c' .. id) end
end

local function cancel(P, id, e, by)
  terminate(P, id, e, 'cancelled', 'cancelled_by', by, finish_event(P, id, 'cancelled', 'cancelled_by', by))
end

-- cancel_children: some children of an execution that was ended from outside; once there is none, its timer goes.
local function cancel_children(P, id, limit)
  local children = redis.call('SRANDMEMBER', P .. 'children:' .. id, limit)
  local f = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'cancelled_by')
  local by = f[1] == 'cancelled' and f[2] or 'the end of ' .. id
  for _, child in ipairs(children) do
    local e = redis.call('HMGET', P .. 'exec:' .. child, unpack(ENDING_FIELDS))
    if e[1] == 'queued' or e[1] == 'waiting' then cancel(P, child, e, by) end
    redis.call('SREM', P .. 'children:' .. id, child)
  end
  if #children < limit then redis.call('ZREM', P .. 'timers', 'c' .. id) end
  return #children
end
