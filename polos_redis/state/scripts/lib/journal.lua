-- #include record
-- record_of: the record under a step key; empty when there is none, or when it is damaged.
local function record_of(P, id, key)
  local packed = redis.call('HGET', P .. 'journal:' .. id, key)
  return packed and read_record(packed) or {}
end

-- rewrite: store a record that has changed. Returns it packed.
local function rewrite(P, id, key, record)
  local packed = cmsgpack.pack(record)
  redis.call('HINCRBY', P .. 'journal:' .. id, '', 1)
  redis.call('HSET', P .. 'journal:' .. id, key, packed)
  return packed
end

-- changes: the journal's count of changes.
local function changes(P, id)
  return tonumber(redis.call('HGET', P .. 'journal:' .. id, '') or 0)
end
