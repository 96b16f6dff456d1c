-- A finding needs its context: what did its process and object do just before and after it?
-- param finding: the number of the finding, as the question `findings` lists it
-- param seconds=5: how long before and after
SELECT time, host, container, pid, tid, comm, op, ret, error, duration_ns, object_kind, object_id, object_key,
  object_name, object_ipc_ns, is_foreign, args
FROM calls
WHERE time_ns >= (SELECT first_ns FROM findings WHERE finding = :finding) - :seconds * 1000000000
  AND time_ns <= (SELECT last_ns FROM findings WHERE finding = :finding) + :seconds * 1000000000
  AND (pid = (SELECT pid FROM findings WHERE finding = :finding)
    OR object_id = (SELECT object_id FROM findings WHERE finding = :finding)
    OR object_name = (SELECT object_name FROM findings WHERE finding = :finding)
    OR object_key = (SELECT object_key FROM findings WHERE finding = :finding))
ORDER BY time_ns, seq
