-- luggage: what a wake-up's entry carries so that its activation has nothing to read: input and journal, if small.
local function luggage(P, id, input)
  local journal = P .. 'journal:' .. id
  if #input > 4096 or redis.call('HLEN', journal) > 32 then return end
  local records, bytes = redis.call('HGETALL', journal), #input
  for _, part in ipairs(records) do bytes = bytes + #part end
  if bytes <= 4096 then return {'input', input, 'journal', cmsgpack.pack(records)} end
end

-- wake: a wait of this execution was decided. If it is parked it becomes runnable; if an activation of it
-- lives, that one's worker is told (a notice may be lost: whoever waits re-checks).
local function wake(P, id, key, record)
  local e = redis.call('HMGET', P .. 'exec:' .. id, 'status', 'owner', 'workflow', 'created', 'run', 'queue', 'input')
  if e[1] == 'waiting' then
    reindex(P, id, e[3], e[4], 'waiting', 'queued')
    put_on(P, id, e[3], e[5], e[6], luggage(P, id, e[7]))
  elseif e[1] == 'queued' and e[2] then
    local worker = string.match(e[2], '^[^:]*')
    redis.pcall('SPUBLISH', P .. 'reply:' .. worker, cmsgpack.pack({'wake', id, key, record}))
  end
end
