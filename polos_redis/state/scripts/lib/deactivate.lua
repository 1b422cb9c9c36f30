-- #include semaphore
-- #include stream
-- deactivate: a queued execution has no activation any more and gets this status: its entry goes, and its slot goes to
-- the first waiter. `name` is that of its indexes, `more` a list of further fields, or nil.
local function deactivate(P, id, is, entry, status, name, created, queue, relations, more)
  list(P, status, name, created, id)
  if not is_told(id, is) then redis.call('HDEL', P .. 'journal:' .. id, WRITER) end
  redis.call('HSET', P .. 'exec:' .. id, 'status', status, unpack(more or {}))
  take_off(P, queue, entry)
  redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner', 'attempts', 'progress', 'held_back', 'answers',
    'unreached_waits', 'running', 'heartbeats')
  if relations then leave(P, id, read_relations(relations)) end
end
