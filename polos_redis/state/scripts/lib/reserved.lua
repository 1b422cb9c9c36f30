-- #include clock
-- #include index
-- #include queue
-- #include semaphore
-- #include stream
-- A reserved stream is a queue of the name <queue> NUL <version> NUL <workflow>, for workers that read the queue and
-- serve this version of the workflow; without a version, for those that serve the workflow. The set `reserved` has its
-- name while it exists, or executions wait for such a worker. Those are unserved: they hold no entry and no slot, but
-- a timer that is never due and a row in the index `unserved` of this name.
local NEVER = '9007199254740991' -- 2^53 - 1, the time of such a timer

-- leave_queue: a queued execution gives up its entry and its slot until this time.
local function leave_queue(P, id, queue, entry, due, name, created, relations)
  redis.call('ZADD', P .. 'timers', due, 'p' .. id)
  list(P, 'queued', name, created, id)
  disown(P, id)
  redis.call('HDEL', P .. 'exec:' .. id, 'entry')
  take_off(P, queue, entry)
  leave(P, id, read_relations(relations))
end

-- list_unserved: whether an unserved execution was not listed as one.
local function list_unserved(P, id, queue, created)
  local name = redis.call('SADD', P .. 'reserved', queue)
  return name + redis.call('ZADD', index_of(P, 'unserved', queue), created, id) > 0
end

-- make_runnable: the execution's delay is over, or some worker serves it by now.
local function make_runnable(P, id)
  local status, entry, workflow, index, created, run, queue, relations = unpack(redis.call('HMGET', P .. 'exec:' .. id,
    'status', 'entry', 'workflow', 'index', 'created', 'run', 'queue', 'relations'))
  if status == 'queued' and not entry then
    offer_listed(P, id, index or workflow, created, workflow, run, queue, read_relations(relations))
  end
end
