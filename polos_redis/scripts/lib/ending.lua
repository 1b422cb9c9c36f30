-- ending: an execution ends, whatever ended it. `e` is HMGET of ENDING_FIELDS; `field` is where its value
-- is kept: output, error or cancelled_by. Closes open waits, takes its entry off the queue, gives every key
-- a TTL, writes the finish event last, and tells who registered for the result.
local ENDING_FIELDS = {'workflow', 'status', 'entry', 'queue', 'created', 'retention', 'waits', 'notify'}

local function ending(P, id, now, e, status, field, value, event, extra)
  local exec = P .. 'exec:' .. id
  local retention = tonumber(e[6])
  if e[7] then
    local journal = P .. 'journal:' .. id
    for _, key in ipairs(cmsgpack.unpack(e[7])) do
      local packed = redis.call('HGET', journal, key)
      local record = packed and cmsgpack.unpack(packed) or {}
      if record[STATUS] == 'open' then
        settle(P, id, key, record, 'closed', now)
      elseif record[STATUS] == 'backoff' then
        end_backoff(P, id, key, record)
      end
      redis.call('PEXPIRE', P .. 'topic:' .. key .. '/' .. id, retention)
    end
  end
  if not e[3] then redis.call('ZREM', P .. 'timers', 'p' .. id) end
  take_off(P, e[4], e[3])
  move(P, id, e[1], e[5], e[2], status)
  redis.call('HSET', exec, 'finished', now, field, value)
  redis.call('HDEL', exec, 'entry', 'owner', 'notify', 'attempts', 'progress')

  local root = string.match(id, '^[^.]*')
  local topic = P .. 'topic:' .. root
  extra[#extra + 1] = root == id and 'workflow_finish' or 'workflow_finish\0' .. id
  extra[#extra + 1] = event
  redis.call('XADD', topic, '*', unpack(extra))
  redis.call('PEXPIRE', exec, retention + 60000)
  redis.call('PEXPIRE', P .. 'journal:' .. id, retention)
  redis.call('UNLINK', P .. 'early:' .. id)
  if root == id then redis.call('PEXPIRE', topic, retention) end
  redis.call('ZADD', P .. 'expiry', now + retention, id)

  if e[8] then
    local inline = #value <= 16384 and value or false
    local notice = cmsgpack.pack({'done', id, status, field, inline})
    for who in string.gmatch(e[8], '%S+') do redis.pcall('SPUBLISH', P .. 'reply:' .. who, notice) end
  end
end
