"""For all tests of all packages."""

import signal

# Started in the background of a script, the suite ignores Ctrl-C, and so would each process that
# it starts: those that tests interrupt, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
