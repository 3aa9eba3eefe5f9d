import argparse
import sys

from genesis_moe.studies.mitosis import add_arguments, run

parser = argparse.ArgumentParser(prog="python -m genesis_moe.studies.mitosis")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
