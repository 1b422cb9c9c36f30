-- #include semaphore
-- #include stream
-- deactivate: a queued execution has no activation any more and gets this status: its entry goes, and its slot goes to
-- the first waiter.
local function deactivate(P, id, is, entry, status, workflow, created, queue, relations)
  if not is_told(id, is) then redis.call('HDEL', P .. 'journal:' .. id, WRITER) end
  take_off(P, queue, entry)
  reindex(P, id, workflow, created, 'queued', status)
  redis.call('HSET', P .. 'exec:' .. id, 'status', status)
  redis.call('HDEL', P .. 'exec:' .. id, 'entry', 'owner', 'attempts', 'progress', 'held_back', 'answers',
    'unreached_waits', 'running')
  if relations then leave(P, id, read_relations(relations)) end
end
