"""Fine-tune a split causal LM: ``python train.py [key=value ...]``; see conf/train.yaml for the settings."""

from splitlearn.cli.signals import end_at_once

if __name__ == "__main__":
    end_at_once()
    from splitlearn.cli.train import main

    main()
