-- An execution's field `ties` is one msgpack map of what binds it to others; without the field there is nothing.
-- parent, key (its parent and the step key there), kids (whether it has had children), lane, limit, near, place (its
-- queue's limit, see lane.lua), timeout, deadline (of the run, ms).
local function read_ties(packed)
  return packed and cmsgpack.unpack(packed) or {}
end

local function write_ties(P, id, ties)
  redis.call('HSET', P .. 'exec:' .. id, 'ties', cmsgpack.pack(ties))
end
