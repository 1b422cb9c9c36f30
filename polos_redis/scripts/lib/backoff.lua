-- end_backoff: a step's durable retry delay is over (or the execution is): the next activation tries again.
local function end_backoff(P, id, key, record)
  record[3] = 'retry'
  local packed = cmsgpack.pack(record)
  redis.call('HSET', P .. 'journal:' .. id, key, packed)
  redis.call('HINCRBY', P .. 'journal:' .. id, '', 1)
  redis.call('ZREM', P .. 'timers', 'b' .. id .. ' ' .. key)
  return packed
end
