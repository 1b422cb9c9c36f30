-- ties: what binds an execution to others, one msgpack map in its field `ties` (none: there is nothing):
-- parent, key (its parent and the step key there), kids (it has had children), lane, limit, near, place (its
-- queue's limit, see lane), timeout, deadline (of the run, in ms).
local function read_ties(packed)
  return packed and cmsgpack.unpack(packed) or {}
end

local function write_ties(P, id, ties)
  redis.call('HSET', P .. 'exec:' .. id, 'ties', cmsgpack.pack(ties))
end
