"""What the API and the worker share: settings, profiles, runs, events, keys, the log.

Imports neither `app` nor `worker`, neither Flask nor gevent.
"""
