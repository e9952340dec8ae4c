"""Fine-tune a split causal LM: ``python train.py [key=value ...]``; see conf/train.yaml for the settings."""

from splitlearn.cli.train import main

if __name__ == "__main__":
    main()
