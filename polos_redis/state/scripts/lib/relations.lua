-- relations: what binds an execution to others, one msgpack map in its field `relations` (none: there is nothing):
-- parent, key (its parent and the step key there), kids (it has had children), semaphore, limit, near, place (its
-- queue's limit, see semaphore), timeout, deadline (of the run, in ms).
local function read_relations(packed)
  return packed and cmsgpack.unpack(packed) or {}
end

local function write_relations(P, id, relations)
  redis.call('HSET', P .. 'exec:' .. id, 'relations', cmsgpack.pack(relations))
end
