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
