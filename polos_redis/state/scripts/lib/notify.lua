-- notify: send a notice to the reply channel of a client or a worker. It may be lost: whoever waits asks again.
local function notify(P, who, notice)
  redis.pcall('SPUBLISH', P .. 'reply:' .. who, cmsgpack.pack(notice))
end
