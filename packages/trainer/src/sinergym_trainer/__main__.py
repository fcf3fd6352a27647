"""`python -m sinergym_trainer`: the same as `sinergym-train`."""

from sinergym_trainer.cli import main

if __name__ == "__main__":
    main()
