-- #include journal
-- An execution's field `waits` lists the step keys of its waits, so that its end finds their topics, timers and rows
-- without reading the whole journal.
local function read_waits(packed)
  return packed and cmsgpack.unpack(packed) or {}
end

-- note_wait: remember a step key that has a wait, or had one.
local function note_wait(P, id, key)
  local exec = P .. 'exec:' .. id
  local keys = read_waits(redis.call('HGET', exec, 'waits'))
  for _, known in ipairs(keys) do if known == key then return end end
  keys[#keys + 1] = key
  redis.call('HSET', exec, 'waits', cmsgpack.pack(keys))
end

-- forget_wait: drop a step key whose decided wait leaves nothing behind.
local function forget_wait(P, id, key)
  local exec = P .. 'exec:' .. id
  local left = {}
  for _, known in ipairs(read_waits(redis.call('HGET', exec, 'waits'))) do
    if known ~= key then left[#left + 1] = known end
  end
  if #left > 0 then redis.call('HSET', exec, 'waits', cmsgpack.pack(left)) else redis.call('HDEL', exec, 'waits') end
end
