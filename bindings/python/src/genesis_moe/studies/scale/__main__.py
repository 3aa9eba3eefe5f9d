import argparse
import sys

from genesis_moe.studies.scale import add_arguments, run

parser = argparse.ArgumentParser(prog="python -m genesis_moe.studies.scale")
add_arguments(parser)
sys.exit(run(parser.parse_args()))
