"""One training run, from its options to a finished folder: `train(TrainOptions(...), console)`."""
