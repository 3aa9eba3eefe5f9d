import sys

from genesis_moe.studies.compare import main

if __name__ == "__main__":
    sys.exit(main())
