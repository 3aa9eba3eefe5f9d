import sys

from genesis_moe.studies.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
