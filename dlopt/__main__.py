import sys

if not sys.flags.safe_path:
    sys.path.append(sys.path.pop(0))  # the working directory: its modules must not replace those of libraries

from dlopt.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
