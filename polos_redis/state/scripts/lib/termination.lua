-- #include ending
-- finish_event: data of a finish event: status, what (cancelled_by or error), and the run when it isn't the first.
local function finish_event(P, id, status, what, text)
  local run = tonumber(redis.call('HGET', P .. 'exec:' .. id, 'run'))
  return (run == 1 and '\130' or '\131') .. cmsgpack.pack('status') .. cmsgpack.pack(status) .. cmsgpack.pack(what)
    .. (text == '' and '\192' or cmsgpack.pack(text))
    .. (run == 1 and '' or cmsgpack.pack('run') .. cmsgpack.pack(run))
end

-- terminate: end an execution from outside: its living activation is told, its descendants follow by a timer.
local function terminate(P, id, e, status, field, value, event)
  local worker = e[3] and string.match(e[3], '^[^:]*')
  if e[2] and not worker then -- it may be at work and not have written yet
    local delivered = redis.pcall('XPENDING', queue_key(P, e[6]), 'workers', e[2], e[2], 1)[1]
    worker = delivered and delivered[2]
  end
  ending(P, id, e, status, field, value, event, {}, {})
  if worker then redis.pcall('SPUBLISH', P .. 'reply:' .. worker, cmsgpack.pack({'cancelled', id, e[2]})) end
  if read_relations(e[12]).kids then redis.call('ZADD', P .. 'timers', now, 'c' .. id) end
end

local function cancel(P, id, e, by)
  terminate(P, id, e, 'cancelled', 'cancelled_by', by, finish_event(P, id, 'cancelled', 'cancelled_by', by))
end

-- cancel_children: some children of an execution that was ended from outside; the children of one that has ended by
-- itself count as its own. Once there is none, its timer goes. Returns how many were looked at, about `limit`.
local function cancel_children(P, id, limit)
  local set, count = P .. 'children:' .. id, 0
  local f = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'cancelled_by')
  local by = f[1] == 'cancelled' and f[2] or 'the end of ' .. id
  for _, child in ipairs(redis.call('SRANDMEMBER', set, limit)) do
    local e = redis.call('HMGET', P .. 'exec:' .. child, unpack(ENDING_FIELDS))
    count = count + 1
    if e[1] == 'queued' or e[1] == 'waiting' then
      cancel(P, child, e, by)
      redis.call('SREM', set, child)
    else
      local below = P .. 'children:' .. child
      local left = redis.call('SRANDMEMBER', below, math.max(1, limit - count))
      for _, one in ipairs(left) do redis.call('SMOVE', below, set, one) end
      count = count + #left
      if redis.call('EXISTS', below) == 0 then redis.call('SREM', set, child) end
    end
  end
  if redis.call('EXISTS', set) == 0 then
    redis.call('ZREM', P .. 'timers', 'c' .. id)
    let_go(P, id, read_relations(redis.call('HGET', P .. 'exec:' .. id, 'relations')))
  end
  return count
end
