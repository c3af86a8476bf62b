"""Answer each experiment from its recorded runs: the module NAME answers experiments/NAME.yaml."""
