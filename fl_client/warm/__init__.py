"""A SuperExec for SuperNodes that forks its tasks from a process in which the imports are done."""
