"""`python -m datasets.openmoji` writes the embedded data set."""

from datasets.openmoji.dataset import main
from utils.core.errors import run_script

run_script(main)
