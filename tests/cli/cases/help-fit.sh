fitq fit --help
