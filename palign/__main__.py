"""`python -m palign`, and `accelerate launch -m palign`: see `palign.command`."""

from palign.command import main

if __name__ == "__main__":
    raise SystemExit(main())
