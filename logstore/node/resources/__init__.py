"""What each part of an instance is given: its copy, and what the instance's copies share.

`copy` is one copy for its parts, `availability` what it may be used for, `context` the shared
engine, stores and clock, `commit` the group commit, `copy_pace` the pace of copying. Imports
config, intake and statistics.
"""
