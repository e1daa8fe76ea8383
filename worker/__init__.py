"""Jobs in, events out: threads that run the Claude CLI and write its events to the log. No gevent."""
