"""`python -m sinergym_trainer.runner`."""

import sys

from sinergym_trainer.runner import main

sys.exit(main())
