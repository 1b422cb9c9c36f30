-- #include ending
-- finish_event: the data of a finish event: status, `what` (cancelled_by or error), and the run when it is not the
-- first. '\130' and '\131' begin a msgpack map of two and of three.
local function finish_event(P, id, status, what, text)
  local run = tonumber(redis.call('HGET', P .. 'exec:' .. id, 'run'))
  local event = cmsgpack.pack('status', status, what, text ~= '' and text or nil)
  if run == 1 then return '\130' .. event end
  return '\131' .. event .. cmsgpack.pack('run', run)
end

-- terminate: end an execution from outside. Its activation is notified, if one lives; a timer ends its descendants.
local function terminate(P, id, e, status, field, value, event)
  local worker = e[EXEC_OWNER] and string.match(e[EXEC_OWNER], '^[^:]*')
  if e[EXEC_ENTRY] and not worker then -- an activation may be at work that has not written yet
    local pending = redis.pcall('XPENDING', queue_key(P, e[EXEC_QUEUE]), 'workers', e[EXEC_ENTRY], e[EXEC_ENTRY], 1)[1]
    local _, consumer = unpack(pending or {})
    worker = consumer
  end
  ending(P, id, e, status, field, value, event, {}, {})
  if worker then notify(P, worker, {'cancelled', id, e[EXEC_ENTRY]}) end
  if read_relations(e[EXEC_RELATIONS]).kids then redis.call('ZADD', P .. 'timers', now, 'c' .. id) end
end

local function cancel(P, id, e, by)
  terminate(P, id, e, 'cancelled', 'cancelled_by', by, finish_event(P, id, 'cancelled', 'cancelled_by', by))
end

-- cancel_children: cancel some children of an execution that was ended from outside. The children of a child that has
-- ended by itself count as its own. Its timer goes with the last one. Returns how many were visited, about `limit`.
local function cancel_children(P, id, limit)
  local set, count = P .. 'children:' .. id, 0
  local status, cancelled_by = unpack(redis.call('HMGET', P .. 'exec:' .. id, 'status', 'cancelled_by'))
  local by = status == 'cancelled' and cancelled_by or 'the end of ' .. id
  for _, child in ipairs(redis.call('SRANDMEMBER', set, limit)) do
    local e = redis.call('HMGET', P .. 'exec:' .. child, unpack(ENDING_FIELDS))
    count = count + 1
    if is_live(e[EXEC_STATUS]) then
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
