fitq plan --help; fitq help plan | cmp - <(fitq plan --help)
