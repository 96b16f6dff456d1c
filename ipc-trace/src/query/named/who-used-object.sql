-- An object is named in a finding, a log or a message: who used it, how often, and when?
-- param object: its id, or a queue's name without the slash
-- param kind=any: shm, sem, msg or mq
-- param ipc_ns=0: the inode number of the IPC namespace that it belongs to; 0: any
SELECT
  host, object_kind, object_ipc_ns, container, pid, comm, exe, uid, op,
  count(*) AS calls, count(error) AS failed, min(time) AS first, max(time) AS last
FROM calls
WHERE (object_name = :object OR object_id = CAST(:object AS INTEGER) AND object_name IS NULL)
  AND :kind IN ('any', object_kind)
  AND :ipc_ns IN (0, object_ipc_ns)
GROUP BY host, object_kind, object_ipc_ns, object_ipc_ns_gen, container, pid, start_boot_ns, op
ORDER BY first
