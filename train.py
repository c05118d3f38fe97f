"""Trains an IQA model, or goes on with a run that was stopped; `python train.py --help` tells more."""

from iqa_jax.cli.train import main

if __name__ == "__main__":
    main()
