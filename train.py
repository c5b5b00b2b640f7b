"""The documented command: python train.py --model [cnn|resnet] --epochs 50 --data_dir ./Brain_Tumor_Data."""

import sys

from braintumor.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
