"""`python -m palign`, and `accelerate launch -m palign`: see `palign.cli.command`."""

from palign.cli.command import main

if __name__ == "__main__":
    raise SystemExit(main())
