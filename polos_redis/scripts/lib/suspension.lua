-- A suspension's record in the journal, by position (the rest is reserved for later capabilities).
local STATUS, OPENED, DEADLINE, SHOWN, ANSWER, DIGEST, BY, CHANNEL, DECIDED = 3, 4, 5, 6, 7, 8, 9, 10, 11

-- answer_event: {data, resumed_by, resumed_at, channel} as one msgpack map around the answer's own bytes.
local function answer_event(record)
  return '\132\164data' .. record[ANSWER]
    .. cmsgpack.pack('resumed_by') .. (record[BY] == '' and '\192' or cmsgpack.pack(record[BY]))
    .. cmsgpack.pack('resumed_at') .. cmsgpack.pack(record[DECIDED])
    .. cmsgpack.pack('channel') .. cmsgpack.pack(record[CHANNEL])
end

-- settle: write the decision of an open suspension (answered, expired or closed), remove its timer and its
-- inbox row, tell both topics. Returns the new record. The caller has checked that it is open.
local function settle(P, id, key, record, status, now)
  record[STATUS] = status
  record[DECIDED] = now
  local packed = cmsgpack.pack(record)
  local journal = P .. 'journal:' .. id
  redis.call('HSET', journal, key, packed)
  redis.call('HINCRBY', journal, '', 1)
  redis.call('ZREM', P .. 'suspensions', id .. ' ' .. key)
  if record[DEADLINE] > 0 then redis.call('ZREM', P .. 'timers', 's' .. id .. ' ' .. key) end
  local root = string.match(id, '^[^.]*')
  local mark = root == id and '' or '\0' .. id
  if status == 'answered' then
    local event = answer_event(record)
    redis.call('XADD', P .. 'topic:' .. key .. '/' .. id, '*', 'resume', event)
    redis.call('XADD', P .. 'topic:' .. root, '*', 'resume_' .. key .. mark, event)
  elseif status == 'expired' then
    local event = '\129' .. cmsgpack.pack('deadline') .. cmsgpack.pack(record[DEADLINE])
    redis.call('XADD', P .. 'topic:' .. key .. '/' .. id, '*', 'timeout', event)
    redis.call('XADD', P .. 'topic:' .. root, '*', 'timeout_' .. key .. mark, event)
  end
  return packed
end
