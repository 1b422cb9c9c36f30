-- An execution's field `relations` is one msgpack map of what binds it to others; without the field there is nothing.
-- parent, parent_created, key (its parent, when that was created, the step key there), kids (whether it has had
-- children), semaphore, limit, near, slot (its version there, see semaphore.lua), timeout, deadline (of the run, ms).
local function read_relations(packed)
  return packed and cmsgpack.unpack(packed) or {}
end

local function write_relations(P, id, relations)
  redis.call('HSET', P .. 'exec:' .. id, 'relations', cmsgpack.pack(relations))
end
