-- note_wait: remember a step key that has (had) a wait, so that the end finds its topic, timer and row
-- without reading the whole journal.
local function note_wait(P, id, key)
  local exec = P .. 'exec:' .. id
  local packed = redis.call('HGET', exec, 'waits')
  local keys = packed and cmsgpack.unpack(packed) or {}
  for _, known in ipairs(keys) do if known == key then return end end
  keys[#keys + 1] = key
  redis.call('HSET', exec, 'waits', cmsgpack.pack(keys))
end

-- forget_wait: one that leaves nothing behind when it is decided.
local function forget_wait(P, id, key)
  local exec = P .. 'exec:' .. id
  local packed = redis.call('HGET', exec, 'waits')
  local keys, left = packed and cmsgpack.unpack(packed) or {}, {}
  for _, known in ipairs(keys) do if known ~= key then left[#left + 1] = known end end
  if #left > 0 then redis.call('HSET', exec, 'waits', cmsgpack.pack(left)) else redis.call('HDEL', exec, 'waits') end
end

-- rewrite: a record has changed.
local function rewrite(P, id, key, record)
  local packed = cmsgpack.pack(record)
  redis.call('HSET', P .. 'journal:' .. id, key, packed)
  redis.call('HINCRBY', P .. 'journal:' .. id, '', 1)
  return packed
end
