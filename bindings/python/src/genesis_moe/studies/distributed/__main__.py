import sys

from genesis_moe.studies.distributed import main

if __name__ == "__main__":
    sys.exit(main())
