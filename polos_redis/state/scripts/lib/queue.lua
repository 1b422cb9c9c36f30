-- #include append
-- #include index
local XACKDEL_SINCE <const> = 524800 -- Redis 8.2, as REDIS_VERSION_NUM has it. Valkey calls itself Redis 7.2 there

-- queue_key: the stream that an execution's entries go to.
local function queue_key(P, queue)
  return P .. 'queue:' .. (queue or 'default')
end

-- take_off: acknowledge and delete an entry.
local function take_off(P, queue, entry)
  local key = queue_key(P, queue)
  if redis.REDIS_VERSION_NUM >= XACKDEL_SINCE then
    -- it leaves an entry that was not delivered
    if redis.call('XACKDEL', key, 'workers', 'IDS', 1, entry)[1] ~= 1 then redis.call('XDEL', key, entry) end
  else
    redis.call('XACK', key, 'workers', entry)
    redis.call('XDEL', key, entry)
  end
end

-- add_entry: add an entry for a runnable execution, with these further fields. Returns its id.
local function add_entry(P, id, workflow, run, queue, more)
  return redis.call('XADD', queue_key(P, queue), '*', 'id', id, 'workflow', workflow, 'run', run, unpack(more or {}))
end

-- is_reserved: whether a queue's stream is for the workers of one workflow, see reserved.lua.
local function is_reserved(queue)
  return queue and string.find(queue, '\0', 1, true)
end

-- open_reserved: create a reserved stream and its group, unless they exist.
local function open_reserved(P, queue)
  local stream = queue_key(P, queue)
  redis.call('SADD', P .. 'reserved', queue)
  if redis.call('EXISTS', stream) == 1 then return end
  redis.call('SADD', P .. 'queues', queue) -- first: repair finds it
  redis.call('XGROUP', 'CREATE', stream, 'workers', '0', 'MKSTREAM')
end

-- put_on: add an entry for a runnable execution; it becomes the live one.
local function put_on(P, id, workflow, run, queue, more)
  if is_reserved(queue) then open_reserved(P, queue) end
  local entry = add_entry(P, id, workflow, run, queue, more)
  redis.call('HSET', P .. 'exec:' .. id, 'status', 'queued', 'entry', entry)
end

-- inlined_payload: what an entry carries so that its activation need not read anything: input and journal, if small.
local function inlined_payload(P, id, input, origin, started)
  local journal = P .. 'journal:' .. id
  if #input > 4096 or redis.call('HLEN', journal) > 32 then return end
  local records, bytes = redis.call('HGETALL', journal), #input + #(origin or '')
  for _, part in ipairs(records) do bytes = bytes + #part end
  if bytes > 4096 or (#records == 0 and started) then return end
  local carried = {'input', input}
  if origin then append(carried, 'origin', origin) end
  if #records > 0 then append(carried, 'journal', cmsgpack.pack(records)) end
  return carried
end
