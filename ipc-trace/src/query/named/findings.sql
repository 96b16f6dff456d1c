-- You want to know what ipc-trace found, the worst first.
SELECT finding, severity, confidence, class, title, first, count, host, container, pid, comm, declared_by
FROM findings
ORDER BY
  CASE severity WHEN 'critical' THEN 0 WHEN 'high' THEN 1 WHEN 'medium' THEN 2 WHEN 'low' THEN 3 ELSE 4 END,
  confidence DESC, first_ns
