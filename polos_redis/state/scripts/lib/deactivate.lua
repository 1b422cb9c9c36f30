-- #include semaphore
-- deactivate: a queued execution has no activation any more and gets this status: its entry goes, and its slot goes to
-- the first waiter. `name` is that of its indexes.
local function deactivate(P, id, entry, status, name, created, queue, relations)
  list(P, status, name, created, id)
  redis.call('HSET', P .. 'exec:' .. id, 'status', status)
  take_off(P, queue, entry)
  redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner', 'attempts', 'progress', 'held_back', 'answers',
    'unreached_waits')
  if relations then leave(P, id, read_relations(relations)) end
end
