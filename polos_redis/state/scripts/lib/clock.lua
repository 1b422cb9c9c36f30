-- The server's clock, read once per script: us for index scores (unique within a partition), ms for all else.
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = time[1] * 1000 + math.floor(time[2] / 1000)
