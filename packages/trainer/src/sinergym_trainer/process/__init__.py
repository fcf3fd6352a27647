"""What this process has to do with its surroundings.

surroundings  versions, threads, the output folder        stopping  SIGTERM and Ctrl-C
progress      the file that the runner reads              display   what people see
cores         which cores a thread runs on                replacing  files that are whole
"""
