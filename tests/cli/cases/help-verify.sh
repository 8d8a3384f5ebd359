fitq verify --help
