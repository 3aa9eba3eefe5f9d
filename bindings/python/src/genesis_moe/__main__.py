"""``python -m genesis_moe``: the same as the command ``genesis-moe``."""

import sys

from genesis_moe.cli import main

sys.exit(main())
