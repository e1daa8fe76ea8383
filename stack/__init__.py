"""All parts on one machine: what `make run` starts. Starts processes; imports neither `app` nor `worker`."""
