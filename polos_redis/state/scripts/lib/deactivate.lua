-- #include semaphore
-- deactivate: a queued execution has no activation any more and gets this status: its entry goes, and its slot goes to
-- the first waiter.
local function deactivate(P, id, entry, status, workflow, created, queue, relations)
  take_off(P, queue, entry)
  reindex(P, id, workflow, created, 'queued', status)
  redis.call('HSET', P .. 'exec:' .. id, 'status', status)
  redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner', 'attempts', 'progress', 'held_back', 'answers',
    'unreached_waits')
  if relations then leave(P, id, read_relations(relations)) end
end
